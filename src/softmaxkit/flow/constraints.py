"""Timing constraints of a unit: its clock, the logic before its inputs and after its outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from softmaxkit.flow.timing import INPUT_SLEW, OUTPUT_LOAD

SHARE = 0.2
"""Default input delay and default output delay, as a fraction of the clock period."""


SHORTEST, LONGEST = 0.002, 1e6
"""Clock periods in ns: test benches count in ps and turn the clock twice in a period."""


def half_period_ps(period: float) -> int:
    """Return half of a clock period in ns as the whole number of ps that test benches wait.

    Raises:
        ValueError: the period is out of range.
    """
    if not SHORTEST <= period <= LONGEST:
        raise ValueError(f"the clock period must be {SHORTEST:g} to {LONGEST:,.0f} ns, got {period:g}")
    return round(500 * period)


@dataclass(frozen=True)
class Constraints:
    """Timing constraints of a unit; times in ns, the load in pF.

    Attributes:
        period: clock period.
        uncertainty: clock uncertainty: jitter, and skew as long as there is no clock tree.
        input_delay: from the clock edge to the arrival of inputs; None for `SHARE` of the period.
        output_delay: from the outputs to the next clock edge; None for `SHARE` of the period.
        driving_cell: library cell that drives the inputs; empty for inputs with a slew of `input_slew`.
        input_slew: slew of inputs if no driving cell is given.
        load: load of outputs.

    Raises:
        ValueError: a value is not finite or out of range, or the delays leave nothing of the period.
    """

    period: float = 5.0
    uncertainty: float = 0.0
    input_delay: float | None = None
    output_delay: float | None = None
    driving_cell: str = ""
    input_slew: float = INPUT_SLEW
    load: float = OUTPUT_LOAD

    def __post_init__(self) -> None:
        half_period_ps(self.period)
        numbers = {"clock uncertainty": self.uncertainty, "input slew": self.input_slew, "load": self.load}
        numbers |= dict(zip(("input delay", "output delay"), self.delays, strict=True))
        for name, number in numbers.items():
            if not (number >= 0 and math.isfinite(number)):
                raise ValueError(f"the {name} must be a finite number of 0 or more, got {number}")
        if (left := self.period - self.uncertainty - sum(self.delays)) <= 0:
            raise ValueError(
                f"delays and uncertainty leave {left:g} ns of a period of {self.period:g} ns for a path from input to "
                "output; give a longer --clock or shorter delays"
            )

    @property
    def delays(self) -> tuple[float, float]:
        """Input delay and output delay in ns, with defaults filled in."""
        share = SHARE * self.period
        before, after = (share if delay is None else delay for delay in (self.input_delay, self.output_delay))
        return before, after
