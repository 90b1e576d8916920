"""The torch modules: equal to golden in every bit, right gradients, NaN, masks, halves and dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from specs import CASES, DEFAULTS, IDS

import softmaxkit
from softmaxkit import ConSmax, Exact, Exaq, Softermax, Spec
from softmaxkit.methods.base.module import SoftmaxModule


def module_of(spec: Spec, numbers: dict[str, Any], mode: str, heads: int | None = None) -> SoftmaxModule:
    return spec.module(heads=heads, mode=mode, **numbers).eval()


@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_integer_mode_equals_golden_over_a_million_scores(spec: Spec, numbers: dict[str, Any]) -> None:
    module = module_of(spec, numbers, "integer")
    scores = torch.randn(8000, 128, generator=torch.Generator().manual_seed(0)) * 4
    mask = torch.rand(8000, 128, generator=torch.Generator().manual_seed(1)) < 0.8
    given_ = module(scores, mask).detach().numpy()
    constants = module.constants
    for kind in (np.asarray, torch.as_tensor):
        codes = spec.encode(kind(scores), constants)
        values = spec.decode(spec.golden(codes, kind(mask), constants), constants)
        assert (np.asarray(values).astype(np.float32) == given_).all()


@st.composite
def hard_rows(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that break things: empty, one key, all masked, ties, extremes, up to 5000 keys."""
    keys = draw(st.one_of(st.integers(0, 40), st.sampled_from([255, 256, 257, 1000, 5000])))
    seed = draw(st.integers(0, 2**32))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, keys, generator=generator) * draw(st.sampled_from([0.0, 0.1, 3.0, 30.0, 1e4, 1e30]))
    special = draw(
        st.lists(st.sampled_from([0.0, -0.0, 31.75, -32.0, 65504.0, 3e38, -3e38, float("-inf"), 1e-40]), max_size=6)
    )
    for index, value in enumerate(special[:keys]):
        scores[0, index] = value
    mask = torch.rand(2, keys, generator=generator) < draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
    return scores, mask


@pytest.mark.parametrize(("spec", "numbers"), CASES, ids=IDS)
@settings(max_examples=40, deadline=None)
@given(rows=hard_rows())
def test_hard_rows(spec: Spec, numbers: dict[str, Any], rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, mask = rows
    module = module_of(spec, numbers, "integer")
    result = module(scores, mask)
    attended = mask & (scores != -torch.inf)
    constants = module.constants
    codes = spec.encode(torch.where(attended, scores, 0.0).numpy(), constants)
    expected = spec.decode(spec.golden(codes, attended.numpy(), constants), constants)
    assert (result.detach().numpy() == expected.astype(np.float32)).all()
    assert (result[~attended] == 0).all()
    assert result.isfinite().all()
    module.mode = "float"
    assert module(scores, mask).isfinite().all()
    assert (module(scores, mask)[~attended] == 0).all()


@pytest.mark.parametrize(("spec", "numbers"), CASES, ids=IDS)
def test_float_mode_equals_reference(spec: Spec, numbers: dict[str, Any]) -> None:
    scores = torch.randn(50, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    mask = torch.rand(50, 33, generator=torch.Generator().manual_seed(1)) < 0.7
    real = {key: value for key, value in numbers.items() if key != "scale"}
    truth = spec.reference(scores.numpy(), mask.numpy(), **real)
    result = module_of(spec, numbers, "float")(scores, mask).detach().numpy()
    # ConSmax holds beta and log gamma in float32: relative 2**-24 of exponents up to 8.
    tolerance = 1e-6 * max(1.0, truth.max()) if spec.method == "consmax" else 1e-14
    assert np.abs(result - truth).max() <= tolerance


@pytest.mark.parametrize(
    ("spec", "numbers"),
    [case for case in CASES if case[0].method != "exaq"],
    ids=[name for name in IDS if not name.startswith("exaq")],
)
def test_gradcheck_in_float_mode(spec: Spec, numbers: dict[str, Any]) -> None:
    module = module_of(spec, numbers, "float").double()
    scores = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[0, 2:] = False
    mask[1] = False
    parameters = tuple(module.parameters())

    def run(values: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return module(values, mask)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(run, (scores, *parameters))


def straight_through(spec: Spec, numbers: dict[str, Any], scores: torch.Tensor, mode: str) -> torch.Tensor:
    values = scores.clone().requires_grad_()
    weights = torch.linspace(-1, 1, scores.shape[-1])
    (module_of(spec, numbers, mode)(values) * weights).sum().backward()
    assert values.grad is not None
    return values.grad


@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_integer_gradients_are_those_of_the_float_form_where_nothing_saturates(
    spec: Spec, numbers: dict[str, Any]
) -> None:
    scores = torch.randn(20, 16, generator=torch.Generator().manual_seed(0))
    integer, floating = (straight_through(spec, numbers, scores, mode) for mode in ("integer", "float"))
    # A native kernel rounds otherwise than torch: exp and sums of 16 terms, a few units in the last place.
    assert torch.allclose(integer, floating, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS[1:], ids=lambda x: getattr(x, "method", ""))
def test_no_gradient_where_scores_saturate(spec: Spec, numbers: dict[str, Any]) -> None:
    scores = torch.tensor([[0.5, 1.0, 200.0, -200.0]])
    gradient = straight_through(spec, numbers, scores, "integer")
    assert (gradient[0, 2:] == 0).all()


@pytest.mark.parametrize("tables", ["split", "shift", "whole"])
def test_consmax_is_calibrated_head_by_head_with_the_scales_that_its_tables_take(tables: str) -> None:
    spec = ConSmax.from_json({"schema": 1, "method": "consmax", "tables": tables})
    module = spec.module(heads=2, mode="integer").eval()
    scores = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    scores[:, 1] *= 5
    calibrator = module.calibrator()
    calibrator.observe(scores, torch.ones_like(scores, dtype=torch.bool))
    found = calibrator.finish()
    assert (len(set(found["scale"])) == 1) == (tables == "shift")
    module.adopt(found)
    constants = module.constants
    codes = spec.encode(scores.double(), constants)
    assert torch.equal(module(scores), spec.decode(spec.golden(codes, None, constants), constants).float())


def test_consmax_has_no_gradient_at_its_ceiling() -> None:
    module = ConSmax().module(beta=0.0, gamma=1.0)
    scores = torch.tensor([[-2.0, 3.0]], requires_grad=True)
    module(scores).sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert scores.grad[0, 1] == 0
    assert scores.grad[0, 0] == pytest.approx(np.exp(-2.0))


def test_exaq_has_no_gradient_below_its_clip_and_passes_through_rounding() -> None:
    module = Exaq(bits=2).module(clip=-3.0)
    scores = torch.tensor([[0.0, -0.6, -9.0]], requires_grad=True)
    result = module(scores)
    result[0, 0].backward()
    assert scores.grad is not None
    assert scores.grad[0, 2] == 0
    # The gradient of softmax at the quantised scores: levels 0, -1 and -3.
    soft = torch.softmax(torch.tensor([0.0, -1.0, -3.0]), 0)
    assert torch.allclose(result[0], soft)
    assert scores.grad[0, 1] == pytest.approx((-soft[0] * soft[1]).item())


@pytest.mark.parametrize("mode", ["float", "integer"])
@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_nan_and_infinity(spec: Spec, numbers: dict[str, Any], mode: str) -> None:
    module = module_of(spec, numbers, mode)
    scores = torch.tensor([[0.0, torch.nan, 1.0], [0.0, torch.nan, 1.0], [0.0, -torch.inf, 1.0], [-torch.inf] * 3])
    mask = torch.ones(4, 3, dtype=torch.bool)
    mask[1, 1] = False
    result = module(scores, mask)
    element_wise = spec.method == "consmax"
    assert result[0].isnan().tolist() == ([False, True, False] if element_wise else [True] * 3)
    assert torch.equal(result[1], result[2])
    assert result[1, 1] == 0
    assert (result[3] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_dtypes_come_back(spec: Spec, numbers: dict[str, Any], dtype: torch.dtype) -> None:
    scores = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    for mode in ("float", "integer"):
        module = module_of(spec, numbers, mode)
        result = module(scores)
        assert result.dtype == dtype
        assert torch.equal(result, module(scores.double()).to(dtype)) or dtype != torch.float64
        assert torch.allclose(result.double(), module(scores.double()).double(), rtol=0.01)


def test_exaq_in_float32_rounds_ties_as_the_reference_does() -> None:
    """Scores on the grid of Q(6,2) fall on midpoints of clips that are multiples of 0.5."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-24, 25, (500, 32), generator=generator) / 4
    for bits in (2, 3, 4):
        for clip in (-3.0, -6.0, -9.0):
            given = Exaq(bits=bits).module(clip=clip)(scores)  # type: ignore[arg-type]
            truth = Exaq(bits=bits).reference(scores.numpy(), clip=clip)  # type: ignore[arg-type]
            assert np.abs(given.numpy() - truth).max() < 1e-6


@pytest.mark.parametrize("mode", ["float", "integer"])
@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_infinity_is_as_in_torch_softmax(spec: Spec, numbers: dict[str, Any], mode: str) -> None:
    result = module_of(spec, numbers, mode)(torch.tensor([[0.0, torch.inf, 1.0], [0.0, 0.5, 1.0]]))
    assert result[0].isnan().all() or spec.method == "consmax"
    assert result[1].isfinite().all()


def test_frozen_constants_alone_run_integers_and_ask_for_the_clip_in_float() -> None:
    module = Exaq().module(mode="integer").eval()
    module.freeze(Exaq().constants(clip=-5.0))
    with torch.no_grad():
        assert torch.equal(module(torch.zeros(1, 2)), torch.full((1, 2), 0.5))
    module.mode = "float"
    with pytest.raises(ValueError, match="needs its clip"):
        module(torch.zeros(3))


def test_bfloat16_models_keep_consmax_consistent() -> None:
    module = ConSmax().module(heads=2, beta=[1.7, 1.9], gamma=[5.3, 6.1]).bfloat16()
    scores = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    offset = (module.beta.double() + module.log_gamma.double())[:, None, None]
    expected = torch.exp(scores.double() - offset).clamp(max=1.0)
    assert torch.allclose(module(scores).double(), expected, rtol=1e-6)


def test_numpy_masks_of_any_layout() -> None:
    mask = np.array([True, False, True, True])[::-1]
    given = softmaxkit.softmax(np.zeros(4), Exact(), mask=mask)
    assert np.allclose(given, mask / 3)
    with pytest.raises(TypeError, match="a mask is a boolean tensor"):
        Exact().module()(torch.zeros(4), mask)


@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_any_dimension(spec: Spec, numbers: dict[str, Any]) -> None:
    scores = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(1)) < 0.7
    module = module_of(spec, numbers, "integer")
    expected = module(scores.movedim(1, -1), mask.movedim(1, -1)).movedim(-1, 1)
    assert torch.equal(module(scores, mask, dim=1), expected)
    assert torch.equal(module(scores, mask, dim=-2), expected)


def test_one_call_like_torch_softmax() -> None:
    scores = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(softmaxkit.softmax(scores, Exact()), torch.softmax(scores, -1))
    array = softmaxkit.softmax(scores.numpy(), Softermax(), mode="integer", dim=0)
    assert isinstance(array, np.ndarray)
    assert (array == softmaxkit.softmax(scores, Softermax(), mode="integer", dim=0).numpy()).all()
    assert np.allclose(softmaxkit.softmax(np.array([0.0, 1.0]), Softermax(), mode="integer"), [0.328125, 0.6640625])
    rows = softmaxkit.softmax(torch.zeros(3, 100), ConSmax()).sum(-1)
    assert torch.allclose(rows, torch.full((3,), np.e))  # 100 keys; rows of 100 / e keys sum to 1


def test_bad_input_is_refused_with_the_remedy() -> None:
    scores = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"mask of shape \(2, 4\) does not broadcast to scores of shape \(2, 3\)"):
        softmaxkit.softmax(scores, Exact(), mask=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="a mask is boolean"):
        softmaxkit.softmax(scores, Exact(), mask=torch.zeros(2, 3))
    with pytest.raises(TypeError, match="scores are floating"):
        softmaxkit.softmax(torch.zeros(2, 3, dtype=torch.long), Exact())
    with pytest.raises(TypeError, match="scores are floating"):
        softmaxkit.softmax(np.zeros(3, np.int64), Exact())
    with pytest.raises(TypeError, match=r"give a spec, Exaq\(\), not the class"):
        softmaxkit.softmax(scores, Exaq)
    with pytest.raises(TypeError, match=r"a spec is made as softmaxkit.Softermax\(\)"):
        softmaxkit.softmax(scores, "exact")  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="did you mean 'Exaq'"):
        _ = softmaxkit.EXAQ
    assert np.allclose(softmaxkit.softmax([0.0, 0.0], Exact()), 0.5)
    with pytest.raises(ValueError, match=r"run softmaxkit.calibrate\(model, batches\) first"):
        softmaxkit.softmax(scores, Exaq())
    with pytest.raises(ValueError, match="negative and finite"):
        softmaxkit.softmax(scores, Exaq(), clip=1.0)
    with pytest.raises(ValueError, match="mode is 'float', 'integer' or 'fused'"):
        Exact().module(mode="int")
    with pytest.raises(TypeError, match="no parameter 'clip'"):
        softmaxkit.softmax(scores, Softermax(), clip=-1.0)
    with pytest.raises(ValueError, match="this module has 4 heads"):
        ConSmax().module(heads=4)(torch.zeros(2, 3, 5, 5))
    with pytest.raises(ValueError, match="positive gamma"):
        ConSmax().module(gamma=-1.0)


def test_constants_follow_the_parameters_and_frozen_ones_hold() -> None:
    module = ConSmax().module(heads=2).eval()
    before = module.constants
    with torch.no_grad():
        module.beta += 0.5
    assert module.constants != before
    module.freeze(before)
    assert module.constants == before
    module.train()
    assert module.constants != before


def test_the_module_compiles() -> None:
    scores = torch.randn(2, 4, 8, 8)
    for mode in ("float", "integer"):
        module = Softermax().module(heads=4, mode=mode)
        compiled = torch.compile(module, backend="eager", fullgraph=mode == "float")
        assert torch.equal(compiled(scores), module(scores))
