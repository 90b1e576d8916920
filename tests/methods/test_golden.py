"""Golden: NumPy and torch alike, within its derived bound of reference, and the same however rows are laid out."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from specs import CASES, DEFAULTS, IDS

from softmaxkit import BF16, FP16, UQ, ConSmax, Exaq, Float, Softermax, Spec
from softmaxkit.formats import Fixed
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


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            {BF16: (1, 16), FP16: (1, 2), UQ(0, 6): (11, 98), UQ(0, 7): (3, 84), UQ(0, 8): (2, 44), UQ(0, 9): (1, 19)},
        ),
        (
            {"constant": "multiplied"},
            {BF16: (1, 9), FP16: (1, 1), UQ(0, 6): (9, 101), UQ(0, 7): (4, 73), UQ(0, 8): (2, 60), UQ(0, 9): (1, 42)},
        ),
        (
            {"tables": "shift"},
            {BF16: (1, 8), FP16: (1, 1), UQ(0, 6): (4, 33), UQ(0, 7): (2, 21), UQ(0, 8): (1, 8), UQ(0, 9): (1, 6)},
        ),
    ],
    ids=["folded", "multiplied", "shift"],
)
def test_consmax_tables_are_as_far_from_the_exactly_rounded_value_as_stated(
    changes: dict[str, Any], expected: dict[Fixed | Float, tuple[int, int]]
) -> None:
    """The largest distance in output LSBs, and how many of all codes are off; `docs/methods.md` has these figures."""
    codes, whole = np.arange(-128, 128), ConSmax(tables="whole")
    for entry, figures in expected.items():
        spec = ConSmax(table_format=entry, **changes)
        constants = spec.constants()
        nearest = whole.golden(codes, None, whole.constants(scale=constants.real_scale))
        off = np.abs(spec.golden(codes, None, constants) - nearest)
        assert (off.max(), (off > 0).sum()) == figures


def test_a_whole_table_of_consmax_is_the_reference_rounded_once() -> None:
    spec = ConSmax(tables="whole", output_bits=12, ceiling=3.0)
    constants = spec.constants(beta=0.0, gamma=2.0)
    codes = np.arange(-128, 128)
    value = np.minimum(np.exp(codes / 16) / 2.0, 3.0) * 2.0**constants.output_fraction_bits
    given = spec.golden(codes, None, constants)
    assert (given == np.minimum(np.round(value), constants.limit)).all()
    assert (constants.low, constants.exponent, len(constants.high)) == ((), 0, 256)


@pytest.mark.parametrize("bits", range(4, 13))
@pytest.mark.parametrize("constant", ["folded", "multiplied"])
def test_fixed_tables_of_consmax_are_scaled_to_fit_and_cut_where_the_result_saturates(bits: int, constant: str) -> None:
    spec = ConSmax.from_json(
        {"schema": 1, "method": "consmax", "table_format": f"UQ(0,{bits})", "constant": constant, "beta0": 0.0}
    )
    constants = spec.constants(gamma=24.0)
    top = (1 << bits) - 1
    assert max(constants.low) >= 1 << (bits - 1)
    high = np.array(constants.high)[[*range(8, 16), *range(8)]]  # from the lowest score up
    assert high.max() == top
    assert (np.diff(high) >= 0).all()
    # Codes 64 and up have high entries of exp(4) / 24 = 2.3 and more; exp(3) / 24 = 0.84 does not saturate.
    assert [code == top for code in constants.high[:8]] == [False] * 4 + [True] * 4
    given = spec.golden(np.arange(64, 128), None, constants)
    assert (given >= constants.limit - 1 - (constant == "multiplied") * (256 >> bits)).all()


@pytest.mark.parametrize("tables", ["folded", "multiplied", "16 bits", "shift"])
def test_the_exact_product_of_consmax_never_overflows(tables: str) -> None:
    """The widest entries in all places, at every shift, against Python's integers."""
    changes: dict[str, dict[str, Any]] = {
        "folded": {"table_format": UQ(0, 12), "output_bits": 24},
        "multiplied": {"table_format": UQ(0, 11), "output_bits": 24, "constant": "multiplied"},
        "16 bits": {"table_format": UQ(0, 10), "output_bits": 9, "constant": "multiplied", "bits": 16},
        "shift": {"table_format": UQ(0, 12), "output_bits": 24, "tables": "shift"},
    }
    spec = ConSmax(**changes[tables])
    top = spec.table_format.max_code  # type: ignore[union-attr]
    constants = spec.constants()
    full = {name: (top,) * len(getattr(constants, name)) for name in ("high", "low", "lower_high", "lower_low")} | {
        "multiplier": top
    }
    for exponent in range(-100, 100):
        changed = dataclasses.replace(constants, **full, exponent=exponent)
        places = spec.factor_count * spec.table_format.bits - exponent - constants.output_fraction_bits
        value = Fraction(top**spec.factor_count) / Fraction(2) ** places
        assert spec.golden(np.array([0]), None, changed).tolist() == [min(round(value), constants.limit)]


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


@pytest.mark.parametrize(
    "spec",
    [
        ConSmax(constant="multiplied"),
        ConSmax(constant="multiplied", table_format=UQ(0, 9)),
        ConSmax(tables="shift"),
        ConSmax(tables="shift", table_format=UQ(0, 9)),
        ConSmax(tables="whole"),
    ],
    ids=lambda spec: spec.variant,
)
def test_stacked_heads_equal_heads_one_by_one(spec: ConSmax) -> None:
    scales = [spec.default_scale] * 3 if spec.tables == "shift" else [0.1, 0.03, 0.2]
    heads = [
        spec.constants(beta=b, gamma=g, scale=s, largest=m)
        for b, g, s, m in zip([1.5, -2.0, 0.0], [5.0, 100.0, 0.5], scales, [1.0, 0.1, 0.4], strict=True)
    ]
    stacked = type(heads[0]).stack(heads)
    codes = np.random.default_rng(0).integers(-128, 128, (2, 3, 4, 9))
    together = spec.golden(codes, None, stacked)
    assert (spec.golden(torch.tensor(codes), None, stacked).numpy() == together).all()
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
