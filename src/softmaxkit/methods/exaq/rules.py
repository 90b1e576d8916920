"""Which fields of EXAQ go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softmaxkit.methods.base.format_rules import check_score_format, check_unsigned
from softmaxkit.methods.exaq.parameters import LAPLACE_FIT

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.spec import Exaq


def check_rules(spec: Exaq) -> None:
    """Check the fields of a spec, whose types are already checked.

    Raises:
        ValueError: a format or size is not supported.
    """
    if spec.clip == "laplace" and spec.bits not in LAPLACE_FIT:
        widths = " or ".join(map(str, LAPLACE_FIT))
        raise ValueError(
            f"Exaq.clip='laplace' requires {widths} bits, got {spec.bits} (the paper's code has no such fit); use "
            "another clip"
        )
    check_score_format(spec, "scores")
    for name in ("exponential", "reciprocal", "output"):
        check_unsigned(spec, name)
    if spec.exponential.integer_bits < 1 or spec.reciprocal.integer_bits != 1:
        raise ValueError(
            "Exaq.exponential must represent 1.0, as UQ(1,15) does, and Exaq.reciprocal must be UQ(1,f), got "
            f"{spec.exponential} and {spec.reciprocal}"
        )
    _ = spec.reciprocal_table.table  # checks the number of segments
