"""ConSmax only: constants, all kinds of tables and their errors, heads, and halves of the unit."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from cases import BY_METHOD
from method_cases import SourceFault
from unit_checks import agrees, break_source, loaded_often, verilator

import softmaxkit
from softmaxkit import BF16, FP16, UQ, ConSmax, Float
from softmaxkit.formats import Fixed
from softmaxkit.methods.base.log_sums import LogSumCalibrator
from softmaxkit.methods.consmax import calibrate as consmax_calibration
from softmaxkit.methods.consmax.unit import Halves


def test_variants_name_the_differences() -> None:
    assert ConSmax(bits=16, constant="multiplied").variant == "bits=16, constant=multiplied"
    assert ConSmax(tables="shift", table_format=UQ(0, 9)).variant == "tables=shift, table_format=UQ(0,9)"


def test_beta_and_gamma_merge_into_one_constant() -> None:
    """C = exp(-beta)/gamma, which the paper's Eq. 3 misprints."""
    scores = np.linspace(-3, 0, 7)
    result = ConSmax().reference(scores, beta=1.2, gamma=7.0)
    assert np.allclose(result, np.exp(-1.2) / 7.0 * np.exp(scores), rtol=1e-13)


def test_rows_of_keys_over_e_sum_to_one() -> None:
    spec = ConSmax()
    rows = softmaxkit.softmax(torch.zeros(3, 100), spec, **spec.start(100)).sum(-1)
    assert torch.allclose(rows, torch.full((3,), np.e))


def test_calibration_that_does_not_fit_the_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="scale must be a single number or 2 of them, one per head, got 3"):
        ConSmax().module(heads=2, scale=[0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="largest must be a single number, got 2"):
        ConSmax(share="layer").module(heads=2, largest=[0.1, 0.2])
    with pytest.raises(ValueError, match="built for one head, so beta must be a single number"):
        ConSmax().constants(beta=[1.0, 2.0], gamma=3.0)


def test_invalid_heads_and_gamma_are_refused() -> None:
    for heads in (0, 2.0, True):
        with pytest.raises(ValueError, match="heads must be a whole number, 1 or more, or None"):
            ConSmax().module(heads=heads)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="this module has 4 heads"):
        ConSmax().module(heads=4)(torch.zeros(2, 3, 5, 5))
    with pytest.raises(ValueError, match="positive, finite gamma"):
        ConSmax().module(gamma=-1.0)


@pytest.mark.parametrize("tables", ["split", "shift", "whole"])
def test_calibration_is_per_head_with_the_scales_that_the_tables_support(tables: str) -> None:
    spec = ConSmax.from_json({"schema": 1, "method": "consmax", "tables": tables})
    module = spec.module(heads=2, mode="integer").eval()
    scores = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    scores[:, 1] *= 5
    calibrator = module.calibrator()
    calibrator.observe(scores, torch.ones_like(scores, dtype=torch.bool))
    numbers = calibrator.finish()
    assert (len(set(numbers["scale"])) == 1) == (tables == "shift")
    module.adopt(numbers)
    constants = module.constants
    codes = spec.encode(scores.double(), constants)
    assert torch.equal(module(scores), spec.decode(spec.golden(codes, None, constants), constants).float())


@pytest.mark.parametrize("share", ["head", "layer"])
@pytest.mark.parametrize("few", [1 << 20, 0], ids=["all rows", "one in four and the largest"])
def test_calibration_takes_the_scale_of_least_squared_error(
    share: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consmax_calibration, "FEW_SCORES", few)
    module = ConSmax(share=share, ceiling=64.0).module(heads=2, beta=1.0, gamma=100.0)
    scores = torch.randn(2, 2, 12, 10, generator=torch.Generator().manual_seed(0))
    scores[:, :, ::4] *= 0.1  # the rows of a sample have smaller scores than the others
    scores[:, 1] *= 2
    scores[1, :, 5, 3] = torch.tensor([5.0, 9.0])
    attended = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    attended[1, :, 5, 3], attended[0, :, 0, 0], scores[0, :, 0, 0] = True, False, 100.0
    calibrator = module.calibrator()
    calibrator.observe(scores, attended)
    calibrated = calibrator.finish()

    truth = module.float_forward(scores, attended)
    sampled = torch.zeros(2, 12)
    sampled[:, ::4] += 1
    sampled[1, 5] += 1
    rows = torch.ones(2, 12) if few else sampled
    low, high = module.spec.score_range()
    grid = [2.0 ** (step / 4) for step in range(-36, 5)]
    errors = []
    for scale in grid:
        coded = module.float_forward((scores / scale).round().clamp(low, high) * scale, attended)
        errors.append(((coded - truth).double().square() * rows[:, None, :, None]).sum(dim=(0, 2, 3)))
    heads, largest = torch.stack(errors), truth.amax(dim=(0, 2, 3)).tolist()
    if share == "head":
        assert calibrated == {"scale": [grid[i] for i in heads.argmin(0).tolist()], "largest": largest}
    else:
        assert calibrated == {"scale": grid[int(heads.sum(1).argmin())], "largest": max(largest)}


@pytest.mark.parametrize("share", ["head", "layer"])
def test_a_conversion_takes_the_mean_log_sum_of_rows_with_attended_keys(share: str) -> None:
    scores = 3 * torch.randn(2, 2, 3, 12, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    attended = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    attended[0, :, 1, :4] = False
    calibrator = LogSumCalibrator(ConSmax(share=share).module(heads=3), lambda mean: {"mean": mean})
    for batch, seen in zip(scores, attended, strict=True):
        calibrator.observe(batch, seen)
    sums = scores.where(attended, -torch.inf).logsumexp(-1).movedim(2, 0).flatten(1)
    heads = sums if share == "head" else sums.reshape(1, -1)
    expected = torch.stack([head[head.isfinite()].mean() for head in heads])
    mean = calibrator.finish()["mean"]
    assert mean.shape == ((3,) if share == "head" else ())
    assert torch.allclose(mean, expected if share == "head" else expected[0], rtol=1e-12)


@pytest.mark.parametrize(
    "numbers", [{"beta": [0.5, 1.0, 1.5], "gamma": 10.0}, {"beta": 0.5, "gamma": (5.0, 9.0, 30.0)}]
)
def test_numbers_per_head_are_those_of_single_heads(numbers: dict[str, Any]) -> None:
    spec, scores = ConSmax(), torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    whole, parts = softmaxkit.softmax(scores, spec, **numbers), spec.partial(**numbers)
    for head in range(3):
        own = {name: number if isinstance(number, float) else number[head] for name, number in numbers.items()}
        alone = softmaxkit.softmax(scores[:, head], spec, **own)
        assert torch.equal(whole[:, head], alone)
        assert torch.equal(parts.result(scores)[:, head], alone)
        assert np.allclose(parts.result(scores.double().numpy())[:, head], alone, rtol=1e-5, atol=0)  # float32
    beta = torch.tensor([0.5, 1.0, 1.5], requires_grad=True)
    weights = torch.arange(8.0)[:, None]
    softmaxkit.softmax(scores, spec, beta=beta, gamma=10.0).matmul(weights).sum().backward()
    (expected,) = torch.autograd.grad(
        spec.partial(beta=beta, gamma=10.0).update(scores, values=weights).result().sum(), beta
    )
    assert beta.grad is not None
    assert torch.allclose(beta.grad, expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"this module has 3 heads, so scores must be \(\.\.\., 3, queries, keys\)"):
        softmaxkit.softmax(scores[:, :2], spec, **numbers)
    with pytest.raises(ValueError, match="beta"):
        ConSmax(share="layer").partial(beta=[1.0, 2.0], gamma=10.0)


def test_no_gradient_at_the_ceiling() -> None:
    module = ConSmax().module(beta=0.0, gamma=1.0)
    scores = torch.tensor([[-2.0, 3.0]], requires_grad=True)
    module(scores).sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert scores.grad[0, 1] == 0
    assert scores.grad[0, 0] == pytest.approx(np.exp(-2.0))


def test_bfloat16_models_stay_consistent() -> None:
    module = ConSmax().module(heads=2, beta=[1.7, 1.9], gamma=[5.3, 6.1]).bfloat16()
    scores = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    offset = (module.beta.double() + module.log_gamma.double())[:, None, None]
    expected = torch.exp(scores.double() - offset).clamp(max=1.0)
    assert torch.allclose(module(scores).double(), expected, rtol=1e-6)


def test_constants_follow_the_parameters() -> None:
    module = ConSmax().module(heads=2).eval()
    before = module.constants
    with torch.no_grad():
        module.beta += 0.5
    assert module.constants != before
    module.freeze(before)
    assert module.constants == before
    module.train()
    assert module.constants != before


def test_small_probabilities_keep_their_resolution() -> None:
    for table in (FP16, Float(4, 10)):
        spec = ConSmax(table_format=table)
        for largest, scale in ((2.0**-20, 0.5), (2.0**-8, 0.5), (2.0**-8, 1 / 16)):
            constants = spec.constants(beta=0.0, gamma=1 / largest, scale=scale, largest=largest)
            codes = np.arange(-128, 1)
            result = spec.decode(spec.golden(codes, None, constants), constants)
            assert np.abs(result - np.exp(codes * scale) * largest).max() <= 1.01 * largest / 256


@pytest.mark.parametrize(
    ("table", "product_bits", "expected"), [("BF16", 0, 7.9e-3), ("FP16", 0, 9.7e-4), ("FP16", 24, 7.04e-4)]
)
def test_split_tables_have_the_stated_error(table: str, product_bits: int, expected: float) -> None:
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
    # Each code has its own output range, so that only the error of the tables remains.
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
def test_errors_against_the_exactly_rounded_value_are_as_stated(
    changes: dict[str, Any], expected: dict[Fixed | Float, tuple[int, int]]
) -> None:
    """The largest error in output LSBs, and the number of codes that are off; `docs/methods.md` has these figures."""
    codes, whole = np.arange(-128, 128), ConSmax(tables="whole")
    for entry, figures in expected.items():
        spec = ConSmax(table_format=entry, **changes)
        constants = spec.constants()
        nearest = whole.golden(codes, None, whole.constants(scale=constants.real_scale))
        off = np.abs(spec.golden(codes, None, constants) - nearest)
        assert (off.max(), (off > 0).sum()) == figures


def test_a_whole_table_is_the_reference_rounded_once() -> None:
    spec = ConSmax(tables="whole", output_bits=12, ceiling=3.0)
    constants = spec.constants(beta=0.0, gamma=2.0)
    codes = np.arange(-128, 128)
    value = np.minimum(np.exp(codes / 16) / 2.0, 3.0) * 2.0**constants.output_fraction_bits
    result = spec.golden(codes, None, constants)
    assert (result == np.minimum(np.round(value), constants.limit)).all()
    assert (constants.low, constants.exponent, len(constants.high)) == ((), 0, 256)


@pytest.mark.parametrize("bits", range(4, 13))
@pytest.mark.parametrize("constant", ["folded", "multiplied"])
def test_fixed_point_tables_are_scaled_to_fit_and_clipped_where_the_result_saturates(bits: int, constant: str) -> None:
    spec = ConSmax.from_json(
        {"schema": 1, "method": "consmax", "table_format": f"UQ(0,{bits})", "constant": constant, "beta0": 0.0}
    )
    constants = spec.constants(gamma=24.0)
    top = (1 << bits) - 1
    assert max(constants.low) >= 1 << (bits - 1)
    high = np.array(constants.high)[[*range(8, 16), *range(8)]]  # from the lowest score up
    assert high.max() == top
    assert (np.diff(high) >= 0).all()
    # Codes from 64 up have high entries of at least exp(4) / 24 = 2.3; exp(3) / 24 = 0.84 does not saturate.
    assert [code == top for code in constants.high[:8]] == [False] * 4 + [True] * 4
    result = spec.golden(np.arange(64, 128), None, constants)
    assert (result >= constants.limit - 1 - (constant == "multiplied") * (256 >> bits)).all()


@pytest.mark.parametrize("tables", ["folded", "multiplied", "16 bits", "shift"])
def test_the_exact_product_never_overflows(tables: str) -> None:
    """The largest entries in all tables, at every shift, against Python integers."""
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


HALVES = ConSmax(bits=16, constant="multiplied", table_format=UQ(0, 9))


@pytest.mark.slow
@verilator
def test_halves_of_a_16_bit_unit_joined_and_apart() -> None:
    unit = HALVES.unit(lanes=2, max_row=9, apart=True)
    agrees(unit, [unit.spec.examples()[0], Halves(*unit.half.examples()[1:])])


@verilator
def test_halves_that_switch_between_joined_and_apart_continually() -> None:
    unit = HALVES.unit(lanes=2, max_row=9, apart=True)
    halves = unit.half.examples()
    loaded_often(unit, [unit.spec.examples()[0], Halves(*halves[:2]), unit.spec.examples()[1], Halves(*halves[1:])])


@pytest.mark.slow
@verilator
def test_writes_that_do_not_wait_for_rows_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, sizes = BY_METHOD["consmax"].narrow["consmax fixed"]
    loaded_often(spec.unit(**sizes))
    busy = ("port.ready.eq(~inside & ~busy)", "port.ready.eq(~inside)")
    break_source(monkeypatch, SourceFault("writes", "", "methods.consmax.unit", "hold_between_rows", *busy))
    with pytest.raises(AssertionError, match="writes were accepted while a row was inside"):
        loaded_often(spec.unit(**sizes))


def test_a_unit_refuses_the_constants_of_several_heads() -> None:
    spec = ConSmax()
    several = type(spec.constants()).stack(spec.examples())
    message = r"requires the constants of one head, got those of 3; select one, e\.g\. constants\.of_head\(0\)"
    with pytest.raises(ValueError, match=message):
        spec.unit(constants=several)
    with pytest.raises(ValueError, match=message):
        spec.unit().writes(several)
    assert spec.unit(constants=several.of_head(1)).constants == spec.examples()[1]


def test_constants_that_cannot_be_loaded_are_refused() -> None:
    spec = ConSmax(bits=16)
    apart = Halves(*ConSmax().examples()[:2])
    with pytest.raises(ValueError, match="has no port to load constants; build it with constants=None"):
        ConSmax().unit(constants=ConSmax().constants()).writes(ConSmax().constants())
    with pytest.raises(ValueError, match="halves of this unit cannot work apart; build it with apart=True"):
        spec.unit().writes(apart)
    assert spec.unit(apart=True).writes(apart)


def test_tables_too_steep_to_be_loaded_are_refused_with_the_remedy() -> None:
    spec = ConSmax(table_format=UQ(0, 6), output_bits=14)
    steep = spec.constants(beta=0.0, gamma=18.0, scale=0.25)
    assert steep.low[0] == 1
    with pytest.raises(ValueError, match=r"scale of 0.25, .* a smaller scale or a wider table_format"):
        spec.unit(lanes=1).writes(steep)
    assert spec.unit(lanes=1).writes(spec.constants(beta=0.0, gamma=18.0, scale=0.125))
    assert spec.unit(lanes=1, constants=steep).constants == steep


@pytest.mark.parametrize("spec", [ConSmax(), ConSmax(constant="multiplied"), ConSmax(tables="shift")], ids=str)
def test_the_word_of_the_offset_is_a_number_less_both_exponents(spec: ConSmax) -> None:
    """As the folder's README says, so that a driver can make the words of a head from its constants."""
    registers = spec.unit(lanes=1).registers
    assert registers is not None
    numbers, exponents = set(), set()
    for gamma, largest in ((100.0, 1.0), (200.0, 0.25), (1000.0, 0.06)):
        constants = spec.constants(beta=1.5, gamma=gamma, largest=largest)
        word = dict(spec.unit(lanes=1).writes(constants))[registers.address("offset")]
        bits = registers.data_bits
        signed = word - (1 << bits) * (word >> (bits - 1))
        exponents.add((constants.exponent, constants.output_fraction_bits))
        numbers.add(signed + constants.exponent + constants.output_fraction_bits)
    assert len(exponents) > 1
    assert len(numbers) == 1
