"""Softermax only: powers of two, slices whose order affects the result, and shifted products."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import softmaxkit
from softmaxkit import UQ, Q, Softermax
from softmaxkit.flow.simulate import can_verilate
from softmaxkit.flow.vectors import Rows
from softmaxkit.flow.verify import verify
from softmaxkit.masks import exact_softmax
from softmaxkit.methods.softermax import golden
from softmaxkit.methods.softermax.products import Products, products_of
from softmaxkit.rounding import shift_right


def test_the_reference_is_softmax_to_base_two() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 9)) * 5
    assert np.allclose(Softermax().reference(scores), 2**scores / (2**scores).sum(-1, keepdims=True), rtol=1e-13)
    assert np.allclose(Softermax(log2e=True).reference(scores), exact_softmax(scores), rtol=1e-13)


def test_the_default_has_no_variant() -> None:
    assert Softermax().variant == ""


def test_two_scores_in_integers() -> None:
    result = softmaxkit.softmax(np.array([0.0, 1.0]), Softermax(), mode="integer")
    assert np.allclose(result, [0.328125, 0.6640625])
    with pytest.raises(TypeError, match="no parameter 'clip'"):
        softmaxkit.softmax(torch.zeros(2, 3), Softermax(), clip=-1.0)


@pytest.mark.parametrize(
    ("spec", "row"),
    [(Softermax(), [0] * 2048 + [24] * 16), (Softermax(power_sum=UQ(2, 6)), [0] * 16 + [8] + [-100] * 15)],
    ids=["defaults", "a narrow sum"],
)
def test_the_bound_holds_if_the_sum_saturates_before_the_maximum_rises(spec: Softermax, row: list[int]) -> None:
    codes, constants = np.array([row]), spec.constants()
    result = spec.decode(spec.golden(codes, None, constants), constants)
    truth = spec.reference(spec.score_values(codes, constants))
    assert (np.abs(result - truth) <= spec.error_bound(codes, None, constants) * (1 + 1e-9)).all()


def test_the_order_of_slices_affects_the_result() -> None:
    spec = Softermax()
    codes = spec.encode(np.random.default_rng(0).normal(size=(500, 256)) * 4, spec.constants())
    swapped = np.concatenate([codes[:, 128:], codes[:, :128]], axis=1)
    first, second = spec.golden(codes, None, spec.constants()), spec.golden(swapped, None, spec.constants())
    assert (np.concatenate([second[:, 128:], second[:, :128]], axis=1) != first).any()


def sparse_rows(spec: Softermax, count: int) -> np.ndarray:
    """Return rows of two slices with few large scores, so that sums are small and often equal, (count, 2 slices)."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-40, 4, (count, 2 * spec.slice_width))
    far = rng.random(codes.shape) < rng.choice([0, 0.5, 0.9, 0.95], (count, 1))
    return np.where(far, spec.input.min_code, codes)


def test_results_are_shifted_products_of_table_entries_except_for_the_corrections() -> None:
    spec = Softermax()
    products = products_of(spec)
    assert products is not None
    codes = sparse_rows(spec, 50_000)
    slices = codes.reshape(len(codes), 2, spec.slice_width)
    local = golden.integer_maximum_candidates(spec, slices).max(-1, keepdims=True)
    sums = golden.power_of_two(spec, slices, local).sum(-1)
    highest, total = golden.running_sum(spec, local[..., 0], sums)
    mantissa, exponent, highest = (
        np.broadcast_to(column[:, None, None], slices.shape)
        for column in (*spec.reciprocal_table(total, spec.rounding), highest)
    )
    entry, whole = slices & 3, slices >> spec.input.fraction_bits
    one, half = 1 << spec.reciprocal.fraction_bits, 1 << spec.reciprocal.fraction_bits - 1
    ones, wires = mantissa == one, np.asarray(products.wires)[entry]
    places = highest - whole + exponent - spec.power_sum.fraction_bits - (ones & ~wires)
    assert places.min() >= 0
    quarters = np.asarray(products.quarters)[entry, mantissa % half] << (ones & wires)
    merged = shift_right(quarters, places + 2, spec.rounding)
    right = spec.golden(codes, None, spec.constants()).reshape(slices.shape)
    corrected, met = np.zeros(slices.shape, np.bool_), 0
    for correction in products.corrections:
        here = (
            (entry == correction.entry)
            & (highest - whole == correction.distance)
            & np.isin(local - whole, correction.local)
        )
        here &= (mantissa == correction.mantissa) & (exponent == correction.exponent)
        corrected, met = corrected | here, met + here.any()
    assert ((abs(right - merged) == 1) == corrected).all()
    assert (right == merged)[~corrected].all()
    assert met >= 4
    # The kind of a distance determines whether a correction applies, just as the distance does.
    for correction in (correction for correction in products.corrections if correction.is_partial):
        kinds = products.kinds()[correction.entry][: correction.distance + 1]
        named = {kinds[local] for local in correction.local}
        assert tuple(local for local, kind in enumerate(kinds) if kind in named) == correction.local
    assert not right[highest - whole >= products.distances].any()
    assert not right[places >= products.limit].any()


@pytest.mark.slow
@pytest.mark.skipif(not can_verilate(), reason="Verilator is missing")
def test_rare_rows_in_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with corrections, where kinds of distances wait; and a sparse row after one whose sum exceeds 256."""
    spec = Softermax()
    sparse = sparse_rows(spec, 4_000)
    highest = np.full((1, 256), spec.input.max_code)
    after = np.pad(sparse[:1], ((0, 0), (0, 256 - sparse.shape[1])), constant_values=spec.input.min_code)
    codes = np.concatenate([highest, after])
    segments = [(spec.constants(), rows_of_codes(segment)) for segment in (sparse, codes)]
    assert verify(spec.unit(lanes=1, storage="memory"), outputs=2_000, rows=segments).faults == []
    kinds = Products.kinds
    monkeypatch.setattr(Products, "kinds", lambda self: tuple((0,) * len(entry_kinds) for entry_kinds in kinds(self)))
    assert verify(spec.unit(lanes=1, storage="memory"), outputs=2_000, rows=segments).mismatches > 0


def rows_of_codes(codes: np.ndarray) -> Rows:
    """Return rows of full length without masked scores."""
    return Rows(codes, np.ones(codes.shape, np.bool_), np.full(len(codes), codes.shape[1]))


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (Softermax(), 4),
        (Softermax(maximum="global", integer_maximum="floor", rounding="floor"), 4),
        (Softermax(input=Q(6, 1), power_segments=2), 2),
        (Softermax(input=Q(6, 4), power_segments=8), 0),
        (Softermax(output=UQ(1, 15)), 0),
        (Softermax(power_sum=UQ(10, 16)), 0),
        (Softermax(unnormalised=UQ(1, 7)), 0),
    ],
    ids=str,
)
def test_which_specs_have_products(spec: Softermax, count: int) -> None:
    products = products_of(spec)
    assert (0 if products is None else len(products.quarters)) == count


@pytest.mark.skipif(not can_verilate(), reason="Verilator is missing")
@pytest.mark.parametrize("width", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_slices_within_a_beat_need_no_buffer(width: int) -> None:
    result = verify(Softermax(slice_width=width).unit(lanes=4, max_row=32), outputs=2_000)
    assert (result.faults, result.mismatches) == ([], 0)
