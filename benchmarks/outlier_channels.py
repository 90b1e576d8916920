"""Errors of attention with an outlier channel in the keys: over a quantised cache, and with 8-bit products without one.

Keys, values and queries are normally distributed. In one channel, keys are larger by a factor, and queries smaller by
the same factor, as in trained models, or not. Prints root mean square errors of the scores and of EXAQ's results, each
relative to the standard deviation, for a few queries over a cache and for all queries at once without a cache.

Then the errors of the scores if the frame of the cache were that of a number of first keys alone: of ordinary keys,
and of keys with an outlier channel after a first key that has another one, as attention sinks do.

Last the errors of results of all queries at once without a cache, by the number of channels and the size of an outlier
channel that queries do not make up for: in 8 bits, and with queries and keys rounded to bfloat16 and all else exact.
"""

from __future__ import annotations

import warnings
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

import softmaxkit
from benchmark import Results, count, options, run
from softmaxkit import ConSmax, Exaq, KeyValueCache
from softmaxkit.kernels.attention import FEW
from softmaxkit.kernels.codes import BITS
from softmaxkit.kernels.encode import encode
from softmaxkit.kernels.frame import frame
from softmaxkit.record import make_result

QUERIES, CHANNELS, OUTLIER_CHANNEL = 96, 64, 3
SPEC, CLIP = Exaq(bits=3), -6.0
SIZES, RATIOS = (8, 32, 64, 128), (1, 4, 8, 16, 50)
METHODS: tuple[tuple[Any, dict[str, Any]], ...] = (
    (Exaq(bits=2), {"clip": -5.0}),
    (SPEC, {"clip": CLIP}),
    (Exaq(bits=4), {"clip": -7.0}),
    (ConSmax(), {"beta": 7.0, "gamma": 1.0}),
)
"""Clips are 2.5 to 3.5 standard deviations of scores without outliers."""
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


def error_percent(result: Tensor, exact: Tensor) -> float:
    """Return the root mean square error relative to the standard deviation of the exact values, in percent."""
    return float(100 * (result.double() - exact).square().mean().sqrt() / exact.std())


def with_sink(key: Tensor) -> Tensor:
    """Return keys whose first one has an outlier of its own, and is small in all other channels."""
    key = key.clone()
    key[:, :, 0] *= 0.3
    key[:, :, 0, OUTLIER_CHANNEL + 4] = 30.0
    return key


def drawn(tokens: int, channels: int = CHANNELS) -> Iterator[Tensor]:
    """Draw queries, keys and values without outliers."""
    random = torch.Generator().manual_seed(0)
    for rows, size in ((QUERIES, 2.0), (tokens, 1.0), (tokens, 1.0)):
        yield torch.randn(1, 2, rows, channels, generator=random) * size


def errors_with_outliers(kind: str, tokens: int, ratio: float) -> Results:
    """Return the errors over each cache and without one, for a kind of outliers."""
    balanced, late, sink = KINDS[kind]
    half = tokens // 2
    query, key, value = drawn(tokens)
    if kind != "none":
        key[:, :, half if late else 0 :, OUTLIER_CHANNEL] *= ratio
        query[..., OUTLIER_CHANNEL] /= ratio if balanced else 1.0
    key = with_sink(key) if sink else key
    scores = query.double() @ key.double().mT / CHANNELS**0.5
    exact = SPEC.module(heads=2, clip=CLIP)(scores).detach() @ value.double()
    results = []
    for bits in BITS:
        first = 1 if sink else half
        cache = KeyValueCache(key[:, :, :first], value[:, :, :first], bits)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of later outliers
            for keys, values in zip(*(x[:, :, first:].split(first, 2) for x in (key, value)), strict=True):
                cache.append(keys, values)
        cached_scores = query.double() @ cache.keys.double().mT / CHANNELS**0.5
        result = torch.cat([cache.attention(few, SPEC, clip=CLIP) for few in query.split(FEW, 2)], 2)
        errors = error_percent(cached_scores, scores), error_percent(result, exact)
        figures = {"scores_error_percent": errors[0], "results_error_percent": errors[1]}
        results.append(make_result(SPEC, "float", outliers=kind, storage=f"{bits}-bit cache", **figures))
    backend = softmaxkit.explain(SPEC, query, key, value, clip=CLIP).backend
    error = error_percent(softmaxkit.attention(query, key, value, SPEC, clip=CLIP), exact)
    return [*results, make_result(SPEC, "float", outliers=kind, backend=backend, results_error_percent=error)]


def errors_by_first_keys(tokens: int, ratio: float) -> Iterator[dict[str, Any]]:
    """Yield the errors of scores, by the number of first keys that give the frame."""
    query, key, _ = drawn(tokens)
    narrow, wide = query.clone(), key.clone()
    narrow[..., OUTLIER_CHANNEL] /= ratio
    wide[..., OUTLIER_CHANNEL] *= ratio
    for first in FIRST:
        for keys_are, queries, keys in (("ordinary", query, key), ("after a sink", narrow, with_sink(wide))):
            scores = queries.double() @ keys.double().mT
            for bits in BITS:
                decoded = encode(keys, bits, *frame(keys[:, :, :first], bits)).decoded(torch.float64)
                error = error_percent(queries.double() @ decoded.mT, scores)
                where = {"keys": keys_are, "first_keys": first, "storage": f"{bits}-bit cache"}
                yield make_result(SPEC, "float", **where, scores_error_percent=error)


def errors_by_channels(tokens: int) -> Iterator[dict[str, Any]]:
    """Yield the errors of results without a cache, by channels and by the size of an outlier channel."""
    for channels, ratio in product(SIZES, RATIOS):
        query, key, value = drawn(tokens, channels)
        key[..., OUTLIER_CHANNEL] *= ratio
        scores = query.double() @ key.double().mT / channels**0.5
        rounded = query.bfloat16().double() @ key.bfloat16().double().mT / channels**0.5
        for spec, numbers in METHODS:
            module = spec.module(heads=2, **numbers)
            exact, in_bfloat16 = (module(x).detach() @ value.double() for x in (scores, rounded))
            result = softmaxkit.attention(query, key, value, spec, **numbers)
            yield make_result(
                spec,
                "float",
                channels=channels,
                ratio=ratio,
                backend=softmaxkit.explain(spec, query, key, value, **numbers).backend,
                results_error_percent=error_percent(result, exact),
                bfloat16_error_percent=error_percent(in_bfloat16, exact),
            )


def measure(arguments: Namespace) -> tuple[dict[str, Any], Results]:
    """Measure every kind of outliers, every number of first keys, then every number of channels."""
    tokens, ratio = arguments.tokens, arguments.ratio
    results = [result for kind in KINDS for result in errors_with_outliers(kind, tokens, ratio)]
    results += [*errors_by_first_keys(tokens, ratio), *errors_by_channels(tokens)]
    return {"tokens": tokens, "ratio": ratio}, results


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each kind of outliers, number of first keys, and number of channels with a size of outliers."""
    inputs, results = record["inputs"], record["results"]
    yield f"a key channel {inputs['ratio']:g} times larger, {inputs['tokens']} tokens: errors of scores, of results"
    for kind in KINDS:
        *cached, alone = (result for result in results if result.get("outliers") == kind)
        errors = [
            f"{result['storage']} {result['scores_error_percent']:.2f}%, {result['results_error_percent']:.1f}%"
            for result in cached
        ]
        errors.append(f"no cache ({alone['backend']}) {alone['results_error_percent']:.1f}%")
        yield f"  {kind:30}" + "; ".join(errors)
    yield "first keys that give the frame: errors of scores, 8 and 4 bits, of ordinary keys; after a sink"
    for first in FIRST:
        errors = [f"{result['scores_error_percent']:.2f}%" for result in results if result.get("first_keys") == first]
        yield f"  {first:4} keys  {', '.join(errors)}"
    names = ", ".join(f"{spec.title}{f' {spec.bits} bits' if isinstance(spec, Exaq) else ''}" for spec, _ in METHODS)
    yield f"no cache, errors of results, and with queries and keys in bfloat16: {names}"
    for channels, size in product(SIZES, RATIOS):
        own = [result for result in results if (result.get("channels"), result.get("ratio")) == (channels, size)]
        errors = [f"{result['results_error_percent']:.1f}% {result['bfloat16_error_percent']:.1f}%" for result in own]
        yield f"  {channels:4} channels, one x {size:<3} ({own[0]['backend']})  {', '.join(errors)}"


def ratio(text: str) -> float:
    """Return the factor in an argument."""
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 1 <= factor < float("inf"):
        raise ArgumentTypeError(f"must be a number of 1 or more, not {text!r}")
    return factor


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__)
    parser.add_argument(
        "--ratio", type=ratio, default=50.0, help="factor by which keys are larger in the channel (default: 50)"
    )
    parser.add_argument("--tokens", type=count, default=1024, help="number of keys (default: 1024)")
    run(parser, measure, lines)


if __name__ == "__main__":
    main()
