"""What surrounds a unit in time: its clock, what comes before its inputs and after its outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from softmaxkit.flow.timing import INPUT_SLEW, OUTPUT_LOAD

SHARE = 0.2
"""Fraction of the period for the logic outside on either side, unless delays are given."""


@dataclass(frozen=True)
class Constraints:
    """Timing constraints of a unit; times in ns, the load in pF.

    Attributes:
        period: of the clock.
        uncertainty: of the clock: its jitter, and its skew before there is a clock tree.
        input_delay: from the clock edge to the arrival of inputs; None for `SHARE` of the period.
        output_delay: from the outputs to the next clock edge; None for `SHARE` of the period.
        driving_cell: library cell that drives the inputs; empty for inputs with a slew of `input_slew`.
        input_slew: of inputs, where no driving cell is given.
        load: of outputs.

    Raises:
        ValueError: a number is not finite or too small, or delays leave nothing of the period.
    """

    period: float = 5.0
    uncertainty: float = 0.0
    input_delay: float | None = None
    output_delay: float | None = None
    driving_cell: str = ""
    input_slew: float = INPUT_SLEW
    load: float = OUTPUT_LOAD

    def __post_init__(self) -> None:
        if not (self.period > 0 and math.isfinite(self.period)):
            raise ValueError(f"the clock's period is a positive number of ns, not {self.period}")
        numbers = {"clock's uncertainty": self.uncertainty, "slew of inputs": self.input_slew, "load": self.load}
        numbers |= dict(zip(("input delay", "output delay"), self.delays, strict=True))
        for name, number in numbers.items():
            if not (number >= 0 and math.isfinite(number)):
                raise ValueError(f"the {name} is 0 or more, not {number}")
        if (left := self.period - self.uncertainty - sum(self.delays)) <= 0:
            raise ValueError(
                f"of a period of {self.period:g} ns, delays and uncertainty leave {left:g} ns for a path from input to "
                "output; give a longer --clock, or shorter delays"
            )

    @property
    def delays(self) -> tuple[float, float]:
        """The delays of inputs and of outputs, with those that are not given filled in."""
        share = SHARE * self.period
        before, after = (share if delay is None else delay for delay in (self.input_delay, self.output_delay))
        return before, after
