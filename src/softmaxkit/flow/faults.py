"""Faults that are put into a unit to see that its verification finds them."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

CHANGES = {"add": "and", "sub": "and", "mul": "and"}
"""What an arithmetic gate becomes: of the same ports and parameters, and hardly ever of the same results."""


@dataclass
class Fault:
    """One gate of a unit, or one bit of a constant table, that is not what it should be.

    Called with a design in the language of Yosys, it returns the design with the fault in it.

    Args:
        seed: chooses which.

    Attributes:
        what: the fault, in words, once it is in a design.
    """

    seed: int = 0
    what: str = ""

    def __call__(self, design: str) -> str:
        """Return a design with the fault in it."""
        choices = [found for found in (_table_bits(design), _gates(design)) if found]
        choose = random.Random(self.seed)
        start, end, text, self.what = choose.choice(choose.choice(choices))
        return design[:start] + text + design[end:]


Change = tuple[int, int, str, str]
"""From where to where in a design, what comes there instead, and in words."""


def _gates(design: str) -> list[Change]:
    """Return the gates that can be another."""
    return [
        (found.start(1), found.end(1), CHANGES[found[1]], f"'{CHANGES[found[1]]}' in place of '{found[1]}' {found[2]}")
        for found in re.finditer(rf"cell \$({'|'.join(CHANGES)}) (\S+)", design)
    ]


def _table_bits(design: str) -> list[Change]:
    """Return the highest bits of constant table entries of several bits."""
    changes = []
    pattern = r"case (\d+'[01]+)\n\s+assign (\S+) (?:\[[\d:]+\] )?(\d+)'([01])([01]+)\n"
    for found in re.finditer(pattern, design):
        flipped = "10"[int(found[4])]
        what = f"the highest bit of {found[3]} in a table's entry {found[1]} became {flipped} ({found[2]})"
        changes.append((found.start(4), found.end(4), flipped, what))
    return changes
