"""The tables with which a native kernel computes EXAQ's golden."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softmaxkit.kernels.integers import WORD_BITS, ExaqKernel

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.spec import Exaq, ExaqConstants


def kernel(spec: Exaq, constants: ExaqConstants) -> ExaqKernel | None:
    """Take thresholds and exponentials as they are.

    None where products are too wide, or for constants of another form than the spec's.
    """
    scale = constants.real_scale
    form = (len(constants.thresholds) + 1, len(constants.exponentials))
    if isinstance(scale, tuple) or form != (spec.levels, spec.levels):
        return None
    lowest, highest = spec.score_range()
    places = spec.reciprocal.fraction_bits - spec.output.fraction_bits
    product_bits = max(constants.exponentials).bit_length() + spec.reciprocal.bits + max(-places, 0)
    if product_bits > WORD_BITS:
        return None
    # Differences of codes are from `lowest - highest` to 0.
    reachable = (min(max(threshold, lowest - highest), 1) for threshold in constants.thresholds)
    return ExaqKernel(
        scale=scale,
        lowest=lowest,
        highest=highest,
        thresholds=tuple(sorted(reachable)),
        exponentials=constants.exponentials,
        reciprocal=spec.reciprocal_table,
        places=places,
        limit=spec.output.max_code,
        step=spec.output.resolution,
    )
