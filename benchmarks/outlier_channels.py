"""Errors of attention with an outlier channel in the keys: over a quantised cache, and with 8-bit products without one.

Keys, values and queries are normally distributed. In one channel, keys are larger by a factor, and queries smaller by
the same factor, as in trained models, or not. Prints root mean square errors of the scores and of EXAQ's results, each
relative to the standard deviation, for a few queries over a cache and for all queries at once without a cache.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import softmaxkit
from softmaxkit import Exaq, KeyValueCache
from softmaxkit.kernels.attention import FEW
from softmaxkit.kernels.codes import BITS

QUERIES, CHANNELS, OUTLIER_CHANNEL = 96, 64, 3
SPEC, CLIP = Exaq(bits=3), -6.0
KINDS = {
    "none": (False, False),
    "in all tokens": (True, False),
    "in all, queries not smaller": (False, False),
    "in later tokens alone": (True, True),
}
"""Kinds of outliers: whether queries are smaller in that channel, and whether the first half of the tokens has none."""


def relative_error(result: Tensor, exact: Tensor) -> float:
    """Return the root mean square error relative to the standard deviation of the exact values."""
    return float((result.double() - exact).square().mean().sqrt() / exact.std())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratio", type=float, default=50.0, help="factor by which keys are larger in the channel")
    parser.add_argument("--tokens", type=int, default=1024, help="number of keys")
    arguments = parser.parse_args()
    half = arguments.tokens // 2
    print(f"a key channel {arguments.ratio:g} times larger, {arguments.tokens} tokens: errors of scores, of results")
    for kind, (balanced, late) in KINDS.items():
        random = torch.Generator().manual_seed(0)
        query, key, value = (
            torch.randn(1, 2, n, CHANNELS, generator=random) for n in (QUERIES, arguments.tokens, arguments.tokens)
        )
        query = query * 2
        if kind != "none":
            key[:, :, half if late else 0 :, OUTLIER_CHANNEL] *= arguments.ratio
            query[..., OUTLIER_CHANNEL] /= arguments.ratio if balanced else 1.0
        scores = query.double() @ key.double().mT / CHANNELS**0.5
        exact = SPEC.module(heads=2, clip=CLIP)(scores).detach() @ value.double()
        errors = {}
        for bits in BITS:
            cache = KeyValueCache(key[:, :, :half], value[:, :, :half], bits)
            cache.append(key[:, :, half:], value[:, :, half:])
            cached_scores = query.double() @ cache.keys.double().mT / CHANNELS**0.5
            result = torch.cat([cache.attention(few, SPEC, clip=CLIP) for few in query.split(FEW, 2)], 2)
            of_scores, of_result = relative_error(cached_scores, scores), relative_error(result, exact)
            errors[f"{bits}-bit cache"] = f"{of_scores:.2%}, {of_result:.1%}"
        choice = softmaxkit.explain(SPEC, query, key, value, clip=CLIP)
        without_cache = softmaxkit.attention(query, key, value, SPEC, clip=CLIP)
        errors[f"no cache ({choice.backend})"] = f"{relative_error(without_cache, exact):.1%}"
        print(f"  {kind:28}" + "; ".join(f"{name} {error}" for name, error in errors.items()))


if __name__ == "__main__":
    main()
