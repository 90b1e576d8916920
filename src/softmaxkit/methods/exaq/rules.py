"""Which fields of EXAQ go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softmaxkit.formats import MAX_SCORE_BITS, Fixed

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.spec import Exaq


def check_rules(spec: Exaq) -> None:
    """Check the fields of a spec, whose types are already checked.

    Raises:
        ValueError: a format or size is not supported.
    """
    if spec.clip == "laplace" and spec.bits == 3:
        raise ValueError(
            "Exaq.clip='laplace' requires 2 or 4 bits, got 3 (the paper's code has no such fit); use another clip"
        )
    if not spec.scores.signed or not 2 <= spec.scores.bits <= MAX_SCORE_BITS:
        raise ValueError(
            f"Exaq.scores must be signed and 2 to {MAX_SCORE_BITS} bits wide, such as Q(6,2), got {spec.scores}"
        )
    for name in ("exponential", "reciprocal", "output"):
        number: Fixed = getattr(spec, name)
        if number.signed or not 1 <= number.fraction_bits <= 20 or number.integer_bits < 0:
            raise ValueError(f"Exaq.{name} must be unsigned with 1 to 20 fraction bits, such as UQ(1,15), got {number}")
    if spec.exponential.integer_bits < 1 or spec.reciprocal.integer_bits != 1:
        raise ValueError(
            "Exaq.exponential must represent 1.0, as UQ(1,15) does, and Exaq.reciprocal must be UQ(1,f), got "
            f"{spec.exponential} and {spec.reciprocal}"
        )
    _ = spec.reciprocal_table.table  # checks the number of segments
