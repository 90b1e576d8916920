"""Golden: NumPy and torch alike, within its derived bound of reference, and the same however rows are laid out."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from specs import CASES, DEFAULTS, IDS

from softmaxkit import FP16, UQ, ConSmax, Exaq, Float, Softermax, Spec
from softmaxkit.methods.exact.golden import exponential, fixed_point
from softmaxkit.methods.exact.spec import Exact
from softmaxkit.methods.exaq.golden import ACCUMULATORS

LENGTHS = (1, 2, 15, 16, 17, 64, 300)


def rows(spread: float, keys: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return 200 rows of scores and masks; some rows are all masked, have ties only, or one key."""
    rng = np.random.default_rng([seed, keys, int(spread * 100)])
    scores = rng.normal(size=(200, keys)) * spread
    mask = rng.random((200, keys)) < rng.choice([0.2, 0.8, 1.0], size=(200, 1))
    scores[:10] = 1.25
    mask[:5] = False
    mask[10:15] = np.arange(keys) == keys // 2
    return scores, mask


@pytest.mark.parametrize(("spec", "numbers"), CASES, ids=IDS)
@pytest.mark.parametrize("spread", [0.3, 2.0, 10.0, 60.0])
def test_golden_is_within_its_bound_of_reference(spec: Spec, numbers: dict[str, Any], spread: float) -> None:
    constants = spec.constants(**numbers)
    real = {key: value for key, value in numbers.items() if key != "scale"}
    for keys in LENGTHS:
        scores, mask = rows(spread, keys)
        codes = spec.encode(scores, constants)
        given = spec.decode(spec.golden(codes, mask, constants), constants)
        truth = spec.reference(spec.score_values(codes, constants), mask, **real)
        bound = spec.error_bound(codes, mask, constants, **real)
        assert (np.abs(given - truth) <= bound * (1 + 1e-9)).all()
        assert (given[~mask] == 0).all()
        assert (bound[~mask] == 0).all()


@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_the_bound_is_tight_enough_to_catch_a_broken_golden(spec: Spec, numbers: dict[str, Any]) -> None:
    constants = spec.constants(**numbers)
    scores, mask = rows(2.0, 64)
    codes = spec.encode(scores, constants)
    real = {key: value for key, value in numbers.items() if key != "scale"}
    truth = spec.reference(spec.score_values(codes, constants), mask, **real)
    scores[:, 7] += 0.5
    wrong = spec.decode(spec.golden(spec.encode(scores, constants), mask, constants), constants)
    assert (np.abs(wrong - truth) > spec.error_bound(codes, mask, constants, **real)).any()


@pytest.mark.parametrize(("spec", "numbers"), CASES, ids=IDS)
def test_numpy_and_torch_give_equal_integers(spec: Spec, numbers: dict[str, Any]) -> None:
    constants = spec.constants(**numbers)
    for keys in LENGTHS:
        scores, mask = rows(4.0, keys)
        codes = spec.encode(scores, constants)
        assert (spec.encode(torch.tensor(scores), constants).numpy() == codes).all()
        given = spec.golden(codes, mask, constants)
        assert given.dtype == np.int64
        tensor = spec.golden(torch.tensor(codes), torch.tensor(mask), constants)
        assert (tensor.numpy() == given).all()
        decoded = spec.decode(tensor, constants)
        assert (decoded.numpy() == spec.decode(given, constants)).all()


@pytest.mark.parametrize(("spec", "numbers"), CASES, ids=IDS)
def test_layout_never_changes_an_integer(spec: Spec, numbers: dict[str, Any]) -> None:
    constants = spec.constants(**numbers)
    scores, mask = rows(3.0, 40)
    codes = spec.encode(scores, constants)
    whole = spec.golden(codes, mask, constants)
    assert (
        spec.golden(codes.reshape(4, 5, 10, 40), mask.reshape(4, 5, 10, 40), constants).reshape(200, 40) == whole
    ).all()
    for row in (0, 12, 100):
        assert (spec.golden(codes[row], mask[row], constants) == whole[row]).all()
    # Masked keys at the end are as if they were not there.
    longer = np.concatenate([codes, codes[:, ::-1]], axis=1)
    attended = np.concatenate([mask, np.zeros_like(mask)], axis=1)
    assert (spec.golden(longer, attended, constants)[:, :40] == whole).all()


@pytest.mark.parametrize(("spec", "numbers"), CASES, ids=IDS)
def test_no_keys_and_no_rows(spec: Spec, numbers: dict[str, Any]) -> None:
    constants = spec.constants(**numbers)
    for shape in ((3, 0), (0, 5)):
        codes = np.zeros(shape, np.int64)
        assert spec.golden(codes, None, constants).shape == shape
        assert spec.reference(codes.astype(float), **{k: v for k, v in numbers.items() if k != "scale"}).shape == shape


@pytest.mark.parametrize(("spec", "numbers"), CASES, ids=IDS)
def test_narrow_integers_are_widened(spec: Spec, numbers: dict[str, Any]) -> None:
    constants = spec.constants(**numbers)
    codes = spec.encode(rows(5.0, 40)[0], constants)
    expected = spec.golden(codes, None, constants)
    assert (spec.golden(codes.astype(np.int32), None, constants) == expected).all()
    assert (spec.golden(torch.tensor(codes.astype(np.int32)), None, constants).numpy() == expected).all()


def within_bound(spec: Spec, codes: list[int]) -> bool:
    row, constants = np.array([codes]), spec.constants()
    given = spec.decode(spec.golden(row, None, constants), constants)
    truth = spec.reference(spec.score_values(row, constants))
    return bool((np.abs(given - truth) <= spec.error_bound(row, None, constants) * (1 + 1e-9)).all())


def test_the_bound_of_softermax_holds_where_the_sum_saturates_before_the_maximum_rises() -> None:
    assert within_bound(Softermax(), [0] * 2048 + [24] * 16)
    assert within_bound(Softermax(power_sum=UQ(2, 6)), [0] * 16 + [8] + [-100] * 15)


def test_the_bound_of_exact_is_close_for_long_rows() -> None:
    spec = Exact()
    codes = spec.encode(np.zeros((1, 8192)), spec.constants())
    assert spec.error_bound(codes, None, spec.constants()).max() < 2 / 8192


def test_consmax_keeps_its_resolution_for_small_probabilities() -> None:
    for table in (FP16, Float(4, 10)):
        spec = ConSmax(table_format=table)
        for largest, scale in ((2.0**-20, 0.5), (2.0**-8, 0.5), (2.0**-8, 1 / 16)):
            constants = spec.constants(beta=0.0, gamma=1 / largest, scale=scale, largest=largest)
            codes = np.arange(-128, 1)
            given = spec.decode(spec.golden(codes, None, constants), constants)
            assert np.abs(given - np.exp(codes * scale) * largest).max() <= 1.01 * largest / 256


def test_exponential_of_exact_is_within_one_ulp_for_every_code() -> None:
    spec = Exact()
    codes = np.arange(1 << 15, 1 << 16)
    power = exponential(spec, fixed_point(codes, spec.format)) * 2.0**-spec.sum_fraction_bits
    truth = np.exp(spec.format.decode(codes))
    normal = truth >= spec.format.smallest
    ulp = 2.0 ** (np.floor(np.log2(truth[normal])) - spec.format.mantissa_bits)
    assert (np.abs(power[normal] - truth[normal]) / ulp).max() == pytest.approx(0.634, abs=0.001)
    assert (power[truth < spec.format.smallest * (1 - 2**-11)] == 0).all()


def test_three_pass_and_global_sums_do_not_depend_on_order() -> None:
    rng = np.random.default_rng(0)
    scores, mask = rows(3.0, 64)
    order = rng.permutation(64)
    for spec, numbers in [(Exact(), {}), (Softermax(maximum="global"), {}), (Exaq(), {"clip": -5.0})]:
        constants = spec.constants(**numbers)
        codes = spec.encode(scores, constants)
        assert (
            spec.golden(codes[:, order], mask[:, order], constants) == spec.golden(codes, mask, constants)[:, order]
        ).all()


def test_the_order_of_softermax_slices_is_part_of_the_result() -> None:
    spec = Softermax()
    codes = spec.encode(np.random.default_rng(0).normal(size=(500, 256)) * 4, spec.constants())
    swapped = np.concatenate([codes[:, 128:], codes[:, :128]], axis=1)
    first, second = spec.golden(codes, None, spec.constants()), spec.golden(swapped, None, spec.constants())
    assert (np.concatenate([second[:, 128:], second[:, :128]], axis=1) != first).any()


@pytest.mark.parametrize(
    ("table", "product_bits", "expected"), [("BF16", 0, 7.9e-3), ("FP16", 0, 9.7e-4), ("FP16", 24, 7.04e-4)]
)
def test_consmax_split_tables_have_the_stated_error(table: str, product_bits: int, expected: float) -> None:
    spec = ConSmax.from_json(
        {
            "schema": 1,
            "method": "consmax",
            "table_format": table,
            "product_bits": product_bits,
            "output_bits": 24,
            "ceiling": 2.0**16,
        }
    )
    codes = np.arange(-128, 128)
    # Each code with an output range of its own, so that only the tables' error is left.
    errors = []
    for code in codes:
        value = np.exp(code / 16)
        constants = spec.constants(beta=0.0, gamma=1.0, scale=1 / 16, largest=value * 1.01)
        errors.append(abs(spec.decode(spec.golden(np.array([code]), None, constants), constants)[0] / value - 1))
    assert max(errors) == pytest.approx(expected, rel=0.01)


def test_the_three_accumulators_of_exaq_are_equal() -> None:
    rng = np.random.default_rng(0)
    for bits in (2, 3, 4):
        exponentials = Exaq(bits=bits).constants(clip=-6.0).exponentials
        for keys in (1, 2, 3, 4, 5, 31, 128):
            level = rng.integers(0, 1 << bits, (50, keys))
            attended = rng.random((50, keys)) < 0.7
            level = np.where(attended, level, 0)
            sums = [accumulate(level, attended, bits, exponentials) for accumulate in ACCUMULATORS.values()]
            assert (sums[0] == sums[1]).all()
            assert (sums[0] == sums[2]).all()


def test_stacked_heads_equal_heads_one_by_one() -> None:
    spec = ConSmax(constant="multiplied")
    heads = [
        spec.constants(beta=b, gamma=g, scale=s) for b, g, s in [(1.5, 5.0, 0.1), (-2.0, 100.0, 0.03), (0.0, 0.5, 0.2)]
    ]
    stacked = type(heads[0]).stack(heads)
    codes = np.random.default_rng(0).integers(-128, 128, (2, 3, 4, 9))
    together = spec.golden(codes, None, stacked)
    for index, constants in enumerate(heads):
        assert (together[:, index] == spec.golden(codes[:, index], None, constants)).all()
        assert (spec.decode(together, stacked)[:, index] == spec.decode(together[:, index], constants)).all()
    assert type(stacked).from_json(stacked.to_json()) == stacked


def test_a_flipped_table_bit_is_seen() -> None:
    spec, numbers = Exaq(bits=3), {"clip": -6.0}
    constants = spec.constants(**numbers)
    codes = spec.encode(rows(2.0, 64)[0], constants)
    flipped = dataclasses.replace(constants, exponentials=(constants.exponentials[0] ^ 4, *constants.exponentials[1:]))
    assert (spec.golden(codes, None, flipped) != spec.golden(codes, None, constants)).any()
