"""Faults to inject into a unit, to test that verification finds them."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

CHANGES = {"add": "and", "sub": "and", "mul": "and"}
"""Replacements of arithmetic cells, with the same ports and parameters and almost never the same result."""


@dataclass
class Fault:
    """One wrong cell in a unit, or one wrong bit in a constant table.

    Calling it with a design in RTLIL returns the design with the fault injected.

    Args:
        seed: selects the location.

    Attributes:
        what: description of the fault, once it has been injected.
    """

    seed: int = 0
    what: str = ""

    def __call__(self, design: str) -> str:
        """Return a design with the fault injected."""
        choices = [changes for changes in (_table_bits(design), _gates(design)) if changes]
        generator = random.Random(self.seed)
        start, end, text, self.what = generator.choice(generator.choice(choices))
        return design[:start] + text + design[end:]


Change = tuple[int, int, str, str]
"""Start and end in the text of a design, the replacement, and a description."""


def _gates(design: str) -> list[Change]:
    """Return a change for each arithmetic cell that can be replaced."""
    return [
        (match.start(1), match.end(1), CHANGES[match[1]], f"'{CHANGES[match[1]]}' in place of '{match[1]}' {match[2]}")
        for match in re.finditer(rf"cell \$({'|'.join(CHANGES)}) (\S+)", design)
    ]


def _table_bits(design: str) -> list[Change]:
    """Return a change for the top bit of each multi-bit entry of the constant tables."""
    changes = []
    # A one-bit case is a reset or an enable, whose value simulation may overwrite before it matters.
    pattern = r"case ((?!1')\d+'[01]+)\n\s+assign (\S+) (?:\[[\d:]+\] )?(\d+)'([01])([01]+)\n"
    for match in re.finditer(pattern, design):
        flipped = "10"[int(match[4])]
        what = f"the highest of {match[3]} bits in table entry {match[1]} became {flipped} ({match[2]})"
        changes.append((match.start(4), match.end(4), flipped, what))
    return changes
