"""Errors of attention with an outlier channel in the keys: over a quantised cache, and with 8-bit products without one.

Keys, values and queries are normally distributed. In one channel, keys are larger by a factor, and queries smaller by
the same factor, as in trained models, or not. Prints root mean square errors of the scores and of EXAQ's results, each
relative to the standard deviation, for a few queries over a cache and for all queries at once without a cache.

Then the errors of the scores if the frame of the cache were that of a number of first keys alone: of ordinary keys,
and of keys with an outlier channel after a first key that has another one, as attention sinks do.
"""

from __future__ import annotations

import argparse
import warnings

import torch
from torch import Tensor

import softmaxkit
from softmaxkit import Exaq, KeyValueCache
from softmaxkit.kernels.attention import FEW
from softmaxkit.kernels.codes import BITS, encode
from softmaxkit.kernels.frame import frame

QUERIES, CHANNELS, OUTLIER_CHANNEL = 96, 64, 3
SPEC, CLIP = Exaq(bits=3), -6.0
KINDS = {
    "none": (False, False, False),
    "in all tokens": (True, False, False),
    "in all, queries not smaller": (False, False, False),
    "in all but a sink, one by one": (True, False, True),
    "in later tokens alone": (True, True, False),
}
"""Kinds of outliers: whether queries are smaller in that channel, whether the first half of the tokens has none, and
whether a first key has another one, from which the cache grows token by token."""
FIRST = (1, 2, 5, 16, 64, 512)


def relative_error(result: Tensor, exact: Tensor) -> float:
    """Return the root mean square error relative to the standard deviation of the exact values."""
    return float((result.double() - exact).square().mean().sqrt() / exact.std())


def with_sink(key: Tensor) -> Tensor:
    """Return keys whose first one has an outlier of its own, and is small in all other channels."""
    key = key.clone()
    key[:, :, 0] *= 0.3
    key[:, :, 0, OUTLIER_CHANNEL + 4] = 30.0
    return key


def errors_by_first_keys(query: Tensor, key: Tensor, ratio: float) -> None:
    """Print the errors of scores, by the number of first keys that give the frame."""
    print("first keys that give the frame: errors of scores, 8 and 4 bits, of ordinary keys; after a sink")
    narrow, wide = query.clone(), key.clone()
    narrow[..., OUTLIER_CHANNEL] /= ratio
    wide[..., OUTLIER_CHANNEL] *= ratio
    for first in FIRST:
        figures = []
        for queries, keys in ((query, key), (narrow, with_sink(wide))):
            scores = queries.double() @ keys.double().mT
            for bits in BITS:
                found = encode(keys, bits, *frame(keys[:, :, :first], bits)).decoded(torch.float64)
                figures.append(f"{relative_error(queries.double() @ found.mT, scores):.2%}")
        print(f"  {first:4} keys  {', '.join(figures)}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratio", type=float, default=50.0, help="factor by which keys are larger in the channel")
    parser.add_argument("--tokens", type=int, default=1024, help="number of keys")
    arguments = parser.parse_args()
    half = arguments.tokens // 2
    print(f"a key channel {arguments.ratio:g} times larger, {arguments.tokens} tokens: errors of scores, of results")
    for kind, (balanced, late, sink) in KINDS.items():
        random = torch.Generator().manual_seed(0)
        query, key, value = (
            torch.randn(1, 2, n, CHANNELS, generator=random) for n in (QUERIES, arguments.tokens, arguments.tokens)
        )
        query = query * 2
        if kind == "none":
            ordinary = query, key
        else:
            key[:, :, half if late else 0 :, OUTLIER_CHANNEL] *= arguments.ratio
            query[..., OUTLIER_CHANNEL] /= arguments.ratio if balanced else 1.0
        key = with_sink(key) if sink else key
        scores = query.double() @ key.double().mT / CHANNELS**0.5
        exact = SPEC.module(heads=2, clip=CLIP)(scores).detach() @ value.double()
        errors = {}
        for bits in BITS:
            first = 1 if sink else half
            cache = KeyValueCache(key[:, :, :first], value[:, :, :first], bits)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of later outliers
                for keys, values in zip(*(x[:, :, first:].split(first, 2) for x in (key, value)), strict=True):
                    cache.append(keys, values)
            cached_scores = query.double() @ cache.keys.double().mT / CHANNELS**0.5
            result = torch.cat([cache.attention(few, SPEC, clip=CLIP) for few in query.split(FEW, 2)], 2)
            of_scores, of_result = relative_error(cached_scores, scores), relative_error(result, exact)
            errors[f"{bits}-bit cache"] = f"{of_scores:.2%}, {of_result:.1%}"
        choice = softmaxkit.explain(SPEC, query, key, value, clip=CLIP)
        without_cache = softmaxkit.attention(query, key, value, SPEC, clip=CLIP)
        errors[f"no cache ({choice.backend})"] = f"{relative_error(without_cache, exact):.1%}"
        print(f"  {kind:30}" + "; ".join(f"{name} {error}" for name, error in errors.items()))
    errors_by_first_keys(*ordinary, arguments.ratio)


if __name__ == "__main__":
    main()
