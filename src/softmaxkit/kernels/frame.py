"""The frame of a cache's keys, found from its first ones: a centre for 4-bit codes, and factors of outlier channels."""

from __future__ import annotations

import torch
from torch import Tensor

from softmaxkit.kernels.codes import LEAST_STEP, Cached

FIRST_KEYS = 64
"""Keys from which a frame is final. 8 bits gain nothing by more keys, 4 bits little: the loss of SmolLM2, on the second
half of four texts of 1,024 tokens, grows by 4.0% with a frame of their first 64 keys, by 3.6% with 128 and by 1.8%
with 512. With a frame of one key it grows by up to 7.7%, and scores err twice as much, or 4 times with 8 bits."""
OUTLIER = {8: 4, 4: 8}
"""By bits, the multiple of the median channel's size from which a key channel is an outlier. In models, channels that
are a little larger have larger queries too, and would lose more by a factor than others gain, most of all with 4 bits,
where only 32 channels share a step (`benchmarks/cache_accuracy.py`)."""
SEEN_BEFORE = 4
"""Earlier tokens in which every channel is assumed to have the median size: few tokens say little about a channel."""
LARGEST_FACTOR = 24
"""Exponent of the largest factor; next to a channel so large, float32 loses the other channels' share of a score."""
OUTGROWN = {bits: 2 * multiple for bits, multiple in OUTLIER.items()}
"""By bits, the multiple of the median channel's size, after division by factors, from which later keys do not fit a
frame. In 1,024 tokens of WikiText, no 64 consecutive keys of SmolLM2 reach 7 and 10.2 of these 8 and 16."""


def frame(keys: Tensor, bits: int) -> tuple[Tensor | None, Tensor | None]:
    """Return the centre and the factors of a cache's keys, estimated from the first keys.

    4-bit codes are relative to the mean. A channel whose root mean square about the centre is r times that of the
    head's median channel, with r at least `OUTLIER`, is divided by the largest power of 2 up to r/2: it is then 2 to 4
    times the median one, and a token's step at most twice that of ordinary channels. Queries are multiplied by that
    power instead. Where they are correspondingly smaller in that channel, scores lose nothing more; where they are not,
    its error, relative to its share of the scores, is no larger than other channels' errors relative to theirs.

    Args:
        keys: floating-point, (batch, key heads, tokens, channels), at least one token. Those that are NaN or infinite
            are ignored.
        bits: bits of their codes.

    Returns:
        The centre and the factors, as in `Cached`.

    Source: SmoothQuant, arXiv 2211.10438, section 4, for activations and weights; QServe, arXiv 2405.04532, section
    4.2, for keys and queries.
    """
    wide = keys.float()
    is_finite = wide.isfinite().all(-1, keepdim=True)
    share = _tokens_over_finite(is_finite)
    if not is_finite.all():  # else sums stay in the order that the keys' strides give them
        wide = wide.where(is_finite, 0.0)
    centre = wide.mean(2, keepdim=True) * share if bits == 4 else None
    if keys.shape[3] == 0:
        return centre, None
    rest = wide if centre is None else (wide - centre).where(is_finite, 0.0)
    ratio = _ratios(rest, share)
    powers = (ratio.log2() - 1).floor().clamp(0, LARGEST_FACTOR).where(ratio >= OUTLIER[bits], 0.0)
    return centre, torch.ldexp(torch.ones_like(powers), powers) if powers.any() else None


def is_outgrown(keys: Cached) -> bool:
    """Return whether a channel of these keys, as coded, is `OUTGROWN` times as large as a head's median channel.

    It waits for a GPU that holds them. Keys that were not finite are ignored.
    """
    if 0 in keys.shape:
        return False
    about = keys.about_centre()
    is_finite = about.isfinite().all(-1, keepdim=True)
    share = _tokens_over_finite(is_finite)
    return bool((_ratios(about.where(is_finite, 0.0), share) >= OUTGROWN[keys.bits]).any())


def _tokens_over_finite(is_finite: Tensor) -> Tensor:
    """Return the number of tokens over that of finite ones, float32: 1.0, exactly, if all are."""
    return is_finite.shape[2] / is_finite.sum(2, keepdim=True, dtype=torch.float32).clamp(min=1)


def _ratios(keys: Tensor, share: Tensor) -> Tensor:
    """Return each channel's size over that of the head's median channel, (batch, key heads, 1, channels).

    Args:
        keys: float32, (batch, key heads, tokens, channels), about their centre; 0 for those that are left out.
        share: number of keys over the number of those that are not left out, (batch, key heads, 1, 1).
    """
    largest = keys.abs().amax(2, keepdim=True)  # its square may overflow float32
    sizes = largest * ((keys / largest.clamp(min=LEAST_STEP)).square().mean(2, keepdim=True) * share).sqrt()
    counted = sizes.masked_fill(sizes == 0, torch.nan).sort(-1).values  # NaN comes last
    places = ((~counted.isnan()).sum(-1, keepdim=True) - 1).clamp(min=0) // 2
    middle = counted.gather(-1, places)  # the lower median; torch's is refused by deterministic algorithms on CUDA
    tokens = keys.shape[2] / share
    return (((sizes / middle).square() * tokens + SEEN_BEFORE) / (tokens + SEEN_BEFORE)).sqrt()
