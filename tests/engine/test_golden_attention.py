"""Golden attention against attention in floats, within bounds derived from the formats; and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from softmaxkit import Exact, Softermax
from softmaxkit.engine.golden import Attention, causal, golden_attention, golden_deferred
from softmaxkit.methods import METHODS
from softmaxkit.methods.base.spec import Spec
from softmaxkit.tables import power_of_two_error

CHANNELS, KEYS, QUERIES = 16, 24, 40
STEP = 1 / 32


def head_of(spec: Spec, seed: int = 0) -> tuple[Attention, dict[str, Any], list[Any]]:
    """Return a head's integer parameters, its real parameters, and its queries, keys, values and attended keys."""
    random = np.random.default_rng(seed)
    parameters = spec.sample_parameters(KEYS, 1.5)
    attention = Attention.of(spec, CHANNELS, spec.constants(**parameters), STEP, STEP)
    codes = [np.round(40 * random.standard_normal((rows, CHANNELS))) for rows in (QUERIES, KEYS, KEYS)]
    codes = [np.clip(matrix, -128, 127).astype(np.int64) for matrix in codes]
    return attention, parameters, [*codes, random.integers(0, KEYS, QUERIES, endpoint=True)]


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_those_of_the_real_numbers(method: str) -> None:
    attention, _, (queries, keys, _, _) = head_of(METHODS[method]())
    # Exact: the multiplier has 16 bits, the sum 20.
    real = (queries @ keys.T) * attention.multiplier * 2.0**-attention.score_places
    assert (
        attention.scores(queries, keys)
        == attention.spec.encode(real * attention.constants.real_scale, attention.constants)
    ).all()


@pytest.mark.parametrize("method", METHODS)
def test_outputs_are_within_their_bound_of_float_attention(method: str) -> None:
    spec = METHODS[method]()
    attention, parameters, (queries, keys, values, attended) = head_of(spec)
    codes, mask = attention.scores(queries, keys), causal(attended, keys)
    truth = spec.reference(spec.score_values(codes, attention.constants), mask, **parameters)
    bound = spec.error_bound(codes, mask, attention.constants, **parameters)
    result = spec.golden(codes, mask, attention.constants)
    # The error of the conversion from a result to its weight.
    lost = np.abs(
        spec.weights(result) * spec.weight_step(attention.constants) - spec.decode(result, attention.constants)
    )
    assert (lost <= spec.weight_step(attention.constants)).all()
    exact = truth @ values
    off = (bound + lost) @ np.abs(values) + attention.output_step / 2
    got = golden_attention(attention, queries, keys, values, attended)
    inside = np.abs(got) < 127
    assert inside.mean() > 0.8
    assert (np.abs(got * attention.output_step - exact) <= off + 1e-9)[inside].all()
    assert np.abs(exact).max() > 10 * attention.output_step  # the bound is not all there is to see


def softermax_by_hand(spec: Softermax, codes: list[int], values: np.ndarray) -> list[int]:
    """Return the outputs of a row with the division last, in plain Python integers, from docs/arithmetic.md alone."""
    step, highest, total = 1 << spec.input.fraction_bits, None, 0
    sums = [0] * values.shape[1]
    for start in range(0, len(codes), spec.slice_width):
        part = codes[start : start + spec.slice_width]
        local = max(min(-(-code // step), spec.input.max_code // step) for code in part)
        rise = 0 if highest is None else max(local - highest, 0)
        highest = local if highest is None else max(local, highest)
        sums = [rounded(accumulator, rise) for accumulator in sums]
        added = 0
        for key, code in enumerate(part, start):
            fraction, whole = (code - local * step) % step, (code - local * step) // step
            entry = int(spec.power_table(np.asarray([fraction]), spec.rounding)[0])
            power = min(rounded(entry, -whole), spec.unnormalised.max_code)
            added += power
            places = spec.unnormalised.fraction_bits - spec.output.fraction_bits
            weight = min(rounded(power, highest - local + places), spec.output.max_code)
            sums = [accumulator + weight * int(value) for accumulator, value in zip(sums, values[key], strict=True)]
        change = spec.unnormalised.fraction_bits - spec.power_sum.fraction_bits
        total = min(rounded(total, rise) + rounded(added, highest - local + change), spec.power_sum.max_code)
    mantissa, exponent = (int(array[0]) for array in spec.reciprocal_table(np.asarray([total]), spec.rounding))
    places = exponent + spec.output.fraction_bits + spec.reciprocal.fraction_bits - spec.power_sum.fraction_bits
    return [max(-128, min(127, rounded(accumulator * mantissa, places))) for accumulator in sums]


def exact_by_hand(spec: Exact, codes: list[int], values: np.ndarray) -> list[int]:
    """Return a row of `Exact` in the same way, with scores as exact fractions."""
    bits, mantissa_bits = spec.sum_fraction_bits, spec.format.mantissa_bits
    scores = [Fraction(float(score)) for score in spec.format.decode(np.asarray(codes))]
    highest: Fraction | None = None
    total, sums = 0, [0] * values.shape[1]

    def exponential(difference: Fraction) -> tuple[int, int]:
        """Return significand and shift of exp of a difference up to 0; (0, 0) below the smallest normal."""
        flushed = Fraction(float(spec.format.decode(spec.format.encode(np.asarray([float(-difference)])))[0]))
        argument = rounded(rounded_to(flushed, spec.argument_bits) * spec.log2e[0], spec.log2e[1])
        fraction, shift = argument % (1 << spec.argument_bits), argument >> spec.argument_bits
        significand = int(spec.exponential(np.asarray([fraction]))[0])
        exponent = -shift - (significand < 1 << (mantissa_bits + 1))
        return (significand, shift) if exponent >= spec.format.min_exponent else (0, 0)

    for start in range(0, len(codes), spec.slice_width):
        part = scores[start : start + spec.slice_width]
        risen = max([*part, *([] if highest is None else [highest])])
        significand, shift = (1 << (mantissa_bits + 1), 0) if highest is None else exponential(highest - risen)
        highest = risen
        sums = [rounded(accumulator * significand, mantissa_bits + 1 + shift) for accumulator in sums]
        total = rounded(total * significand, mantissa_bits + 1 + shift)
        for key, score in enumerate(part, start):
            significand, shift = exponential(score - highest)
            power = (significand << (bits - mantissa_bits)) >> (shift + 1)
            total += power
            weight = min(rounded(power, bits - 8), 255)
            sums = [accumulator + weight * int(value) for accumulator, value in zip(sums, values[key], strict=True)]
    mantissa, exponent = (int(array[0]) for array in spec.reciprocal(np.asarray([total])))
    places = exponent - bits + 8 + spec.reciprocal.mantissa_bits
    return [max(-128, min(127, rounded(accumulator * mantissa, places))) for accumulator in sums]


def rounded(number: int, places: int) -> int:
    """Divide by a power of two, to nearest, ties to even."""
    return round(Fraction(number, 1 << places))


def rounded_to(number: Fraction, places: int) -> int:
    """Return a number in units of `2**-places`, rounded to nearest, ties to even."""
    return round(number * (1 << places))


@pytest.mark.parametrize(
    ("spec", "by_hand"),
    [(Softermax(slice_width=8), softermax_by_hand), (Exact(slice_width=8), exact_by_hand)],
    ids=["softermax", "exact"],
)
def test_the_division_last_a_number_at_a_time(spec: Spec, by_hand: Callable[..., list[int]]) -> None:
    attention, _, (queries, keys, values, attended) = head_of(spec)
    codes = attention.scores(queries, keys)
    got = golden_deferred(attention, queries, keys, values, attended)
    for query, count in enumerate(attended):
        if count:
            assert got[query].tolist() == by_hand(spec, codes[query, :count].tolist(), values), query
        else:
            assert not got[query].any()
    scores = spec.score_values(codes, attention.constants)
    assert (np.maximum.accumulate(scores, axis=-1) > scores[:, :1] + 2).any()  # maxima rise on the way


def test_the_division_last_is_within_its_bound_of_float_attention() -> None:
    """Each weight is rounded to 7 bits, and the sums once per rise of the maximum; other errors are those of golden."""
    spec = Softermax(slice_width=8)
    attention, _, (queries, keys, values, attended) = head_of(spec)
    codes, mask = attention.scores(queries, keys), causal(attended, keys)
    scores = np.where(mask, spec.score_values(codes, attention.constants), -np.inf)
    exact = spec.reference(spec.score_values(codes, attention.constants), mask) @ values
    slices = -(-KEYS // spec.slice_width)
    highest = np.ceil(np.max(scores, axis=-1, keepdims=True, initial=-32.0))
    total = (2.0 ** (scores - highest)).sum(axis=-1, keepdims=True)
    # A power has the error of its chord and its rounding; the sum has two roundings per slice.
    least = total * (1 - power_of_two_error(spec.power_segments)) - slices * 2.0**-6 - KEYS * 2.0**-15
    lost = (mask @ np.abs(values) + slices) * spec.output.resolution / 2 / np.maximum(least, 2.0**-6)
    off = spec.error_bound(codes, mask, attention.constants) @ np.abs(values) + lost + 0.5
    got = golden_deferred(attention, queries, keys, values, attended)
    inside = np.abs(got) < 127
    assert (np.abs(got - exact) <= off + 1e-9)[inside].all()
    # Undivided weights lose less to rounding than probabilities do.
    token = golden_attention(attention, queries, keys, values, attended) * attention.output_step
    assert np.abs(got - exact)[inside].mean() < np.abs(token - exact)[inside].mean()


def test_exact_with_the_division_last_is_within_its_bound_of_float_attention() -> None:
    """Each weight is rounded to 8 bits or saturates, and the sums once per rise; other errors are those of golden."""
    spec = Exact(schedule="online", slice_width=8)
    attention, _, (queries, keys, values, attended) = head_of(spec)
    codes, mask = attention.scores(queries, keys), causal(attended, keys)
    exact = spec.reference(spec.score_values(codes, attention.constants), mask) @ values
    slices = -(-KEYS // spec.slice_width)
    # The sum is at least 1 minus its own error; each weight is off by at most one step, where it saturates.
    lost = (mask @ np.abs(values) + slices) * 2.0**-8 * 1.01
    off = 2 * spec.error_bound(codes, mask, attention.constants) @ np.abs(values) + lost + 0.5
    got = golden_deferred(attention, queries, keys, values, attended)
    inside = np.abs(got) < 127
    assert (np.abs(got - exact) <= off + 1e-9)[inside].all()
    assert np.abs(exact).max() > 10
    # Undivided weights lose less to rounding than probabilities do.
    token = golden_attention(attention, queries, keys, values, attended) * attention.output_step
    assert np.abs(got - exact)[inside].mean() < np.abs(token - exact)[inside].mean()


@pytest.mark.parametrize("method", METHODS)
def test_keys_that_are_not_attended_do_not_matter(method: str) -> None:
    attention, _, (queries, keys, values, attended) = head_of(METHODS[method]())
    before = golden_attention(attention, queries, keys, values, attended)
    one = np.full(QUERIES, KEYS - 1)
    changed = [np.where(np.arange(KEYS)[:, None] == KEYS - 1, -128, matrix) for matrix in (keys, values)]
    whole = golden_attention(attention, queries, keys, values, one)
    assert (golden_attention(attention, queries, *changed, one) == whole).all()
    assert (attended == 0).any()
    assert (before[attended == 0] == 0).all()
    assert (golden_attention(attention, queries, keys, values, np.full(QUERIES, KEYS + 9)) != whole).any()


@pytest.mark.parametrize("method", METHODS)
def test_torch_gives_the_same_integers(method: str) -> None:
    attention, _, arrays = head_of(METHODS[method]())
    as_torch = golden_attention(attention, *(torch.as_tensor(array) for array in arrays))
    assert (as_torch.numpy() == golden_attention(attention, *arrays)).all()


def test_heads_are_stacked() -> None:
    attention, _, arrays = head_of(Softermax())
    stacked = golden_attention(attention, *(np.stack((array, array[::-1])) for array in arrays))
    assert (stacked[1] == golden_attention(attention, *(array[::-1] for array in arrays))).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multiplier": 1 << 16}, "multiplier of an engine is a whole number from 1 to 65535"),
        ({"channels": 0}, "channels of an engine is a whole number from 1 to 1024"),
        ({"output_places": -1}, "output_places of an engine is a whole number from 0 to 32"),
    ],
    ids=str,
)
def test_refuses_integers(change: dict[str, int], message: str) -> None:
    spec = Softermax()
    numbers = {"channels": 4, "multiplier": 1, "score_places": 0, "output_places": 0} | change
    with pytest.raises(ValueError, match=message):
        Attention(spec, spec.constants(), **numbers)


@pytest.mark.parametrize("step", [1e-14, 1e9])
def test_refuses_steps_out_of_range(step: float) -> None:
    with pytest.raises(ValueError, match=r"score codes, out of the range of an engine; change query_step"):
        Attention.of(Softermax(), 4, query_step=step)


@pytest.mark.parametrize("channels", [0, -64])
def test_refuses_channels_before_it_scales_by_their_number(channels: int) -> None:
    with pytest.raises(ValueError, match=f"channels of an engine is a whole number from 1 to 1024, not {channels}"):
        Attention.of(Softermax(), channels)


def test_refuses_heads_and_codes() -> None:
    attention, _, (queries, keys, values, attended) = head_of(Softermax())
    with pytest.raises(ValueError, match=r"queries are \(..., 16\), not \(40, 8\)"):
        golden_attention(attention, queries[:, :8], keys, values, attended)
    with pytest.raises(ValueError, match="24 keys but 23 values"):
        golden_attention(attention, queries, keys, values[1:], attended)
    with pytest.raises(ValueError, match="codes of keys are from -128 to 127"):
        golden_attention(attention, queries, keys + 128, values, attended)
    with pytest.raises(ValueError, match="codes of values are integers, not float64"):
        golden_attention(attention, queries, keys, values + 0.5, attended)
    with pytest.raises(ValueError, match=r"codes of keys are integers, not torch\.float32"):
        golden_attention(attention, *map(torch.as_tensor, (queries, np.float32(keys), values, attended)))
    with pytest.raises(TypeError, match="Constants"):
        Attention.of(Softermax(), 4, METHODS["consmax"]().examples()[0])


@pytest.mark.parametrize("spec", [Softermax(), Exact()], ids=str)
def test_layout_never_changes_an_integer_with_the_division_last(spec: Spec) -> None:
    random = np.random.default_rng(0)
    constants = spec.constants(**spec.sample_parameters(40, 1.5))
    codes, mask = spec.encode(3 * random.normal(size=(24, 40)), constants), random.random((24, 40)) < 0.7
    rows = spec.deferred(codes, mask, constants)
    heads = spec.deferred(codes.reshape(4, 6, 40), mask.reshape(4, 6, 40), constants)
    for name in ("weights", "rises", "factor", "places", *(["scales"] if rows.scales is not None else [])):
        flat, deep = getattr(rows, name), getattr(heads, name)
        assert deep.shape == (4, 6, flat.shape[-1])
        assert (deep.reshape(flat.shape) == flat).all(), name
