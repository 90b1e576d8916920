"""The constants of an EXAQ unit, as registers or baked in."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import signed, unsigned

from softmaxkit.blocks.configuration import Register, RegisterMap
from softmaxkit.methods.exaq.accumulators import packed_sums
from softmaxkit.methods.exaq.constants import ExaqConstants
from softmaxkit.methods.exaq.golden import CODES_PER_LOOKUP, sum_table
from softmaxkit.methods.exaq.spec import Exaq


def register_map(spec: Exaq, lanes: int, sets: int = 1) -> RegisterMap:
    """Return the register map of a loadable unit."""
    registers = [
        Register(
            "thresholds",
            signed(spec.score_bits + 1),
            spec.levels - 1,
            "least score of each level but the lowest, less the maximum",
        ),
        Register("exponentials", unsigned(spec.exponential.bits), spec.levels, "exponential of each level"),
    ]
    if spec.accumulator == "packed":
        largest = CODES_PER_LOOKUP[spec.bits] * spec.exponential.max_code
        group = (
            f"sum of the exponentials of {CODES_PER_LOOKUP[spec.bits]} levels, by the levels, the first in the low bits"
        )
        registers.append(Register("sums", unsigned(largest.bit_length()), packed_sums(spec, lanes), group))
    return RegisterMap(registers, sets)


def baked(spec: Exaq, constants: ExaqConstants, lanes: int) -> dict[str, Sequence[int]]:
    """Return the tables and registers of one layer or head as integers."""
    words = {"thresholds": constants.thresholds, "exponentials": constants.exponentials}
    if spec.accumulator == "packed":
        words["sums"] = sum_table(spec.bits, constants.exponentials)[: packed_sums(spec, lanes)]
    return words


def check_highest(spec: Exaq, constants: ExaqConstants) -> None:
    """Check that the largest score of a row adds at least 1 to its sum, as the widths of a unit require.

    Raises:
        ValueError: the largest score has a lower level than the highest, or that level's exponential is less than 1.
    """
    highest = constants.exponentials[-1]
    if constants.thresholds[-1] > 0 or highest < 1 << spec.exponential.fraction_bits:
        raise ValueError(
            "a unit of Exaq requires constants with a last threshold of at most 0 and a last exponential of at least "
            f"{1 << spec.exponential.fraction_bits} (1.0), got {constants.thresholds[-1]} and {highest}"
        )
