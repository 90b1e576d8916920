"""The constants of EXAQ: the thresholds of the quantiser, and the table of exponentials."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.levels import threshold_codes

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.spec import Exaq


@dataclass(frozen=True)
class ExaqConstants(Constants):
    """The integers of one layer.

    Attributes:
        scale: see `Constants`.
        thresholds: 2**bits - 1 integers; a score has level k + 1 or higher if its code minus the row's maximum is at
            least `thresholds[k]`.
        exponentials: 2**bits codes of exp at the levels, ascending; the last represents 1.
    """

    thresholds: Any
    exponentials: Any


def build(spec: Exaq, scale: tuple[int, int], clip: float) -> ExaqConstants:
    """Build the constants of one layer or head.

    Args:
        spec: the spec.
        scale: the score scale, as in `Constants`.
        clip: the lowest level, negative.
    """
    mantissa, exponent = scale
    lowest = -(1 << spec.score_bits)  # below every difference of two codes
    thresholds = threshold_codes(clip, spec.levels, mantissa * Fraction(2) ** exponent, lowest)
    codes = spec.exponential.encode(np.asarray(spec.exponentials(clip)))
    return ExaqConstants(scale, thresholds, tuple(int(code) for code in codes), form=spec.constants_form)
