"""The torch modules: bit-exact to golden, with correct gradients, NaN, masks, half precision and dimensions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import BY_METHOD, CASES, DEFAULTS
from hypothesis import given, settings
from hypothesis import strategies as st
from method_cases import Case

import softmaxkit
from softmaxkit.methods import BASELINE
from softmaxkit.methods.base.module import SoftmaxModule

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_method = pytest.mark.parametrize("case", DEFAULTS, ids=str)
both_modes = pytest.mark.parametrize("mode", ["float", "integer"])


def module_of(case: Case, mode: str, heads: int | None = None) -> SoftmaxModule:
    return case.spec.module(heads=heads, mode=mode, **case.numbers).eval()


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def random_mask(*shape: int, attended: float) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) < attended


SCALED = [case for case in DEFAULTS if "scale" in module_of(case, "float").calibrated_numbers]


@pytest.mark.parametrize("case", SCALED, ids=str)
@both_modes
@pytest.mark.parametrize("scale", [-0.1, 0.0, float("nan"), float("inf")])
def test_score_scales_are_positive_in_both_modes(case: Case, mode: str, scale: float) -> None:
    module, numbers = module_of(case, mode), case.numbers | {"scale": scale}
    with pytest.raises(ValueError, match="a score scale must be positive"):
        module.set_calibration({"scale": scale})
    for call in (case.spec.module, lambda **given: softmaxkit.softmax(normal(2, 8), case.spec, **given)):
        with pytest.raises(ValueError, match="a score scale must be positive"):
            call(mode=mode, **numbers)


@every_method
@pytest.mark.parametrize("rows", [800, pytest.param(8000, marks=pytest.mark.slow)])
def test_integer_mode_equals_golden_over_many_scores(case: Case, rows: int) -> None:
    module, spec = module_of(case, "integer"), case.spec
    scores, mask = normal(rows, 128) * 4, random_mask(rows, 128, attended=0.8)
    probabilities = module(scores, mask).detach().numpy()
    constants = module.constants
    for kind in (np.asarray, torch.as_tensor):
        codes = spec.encode(kind(scores), constants)
        values = spec.decode(spec.golden(codes, kind(mask), constants), constants)
        assert (np.asarray(values).astype(np.float32) == probabilities).all()


@st.composite
def hard_rows(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw difficult rows: empty, one key, fully masked, ties, extremes, up to 5000 keys."""
    keys = draw(st.one_of(st.integers(0, 40), st.sampled_from([255, 256, 257, 1000, 5000])))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    scores = torch.randn(2, keys, generator=generator) * draw(st.sampled_from([0.0, 0.1, 3.0, 30.0, 1e4, 1e30]))
    special = draw(
        st.lists(st.sampled_from([0.0, -0.0, 31.75, -32.0, 65504.0, 3e38, -3e38, float("-inf"), 1e-40]), max_size=6)
    )
    for index, value in enumerate(special[:keys]):
        scores[0, index] = value
    mask = torch.rand(2, keys, generator=generator) < draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
    return scores, mask


def check_hard_rows(case: Case, rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, mask = rows
    module, spec = module_of(case, "integer"), case.spec
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


@every_method
@settings(max_examples=15, deadline=None)
@given(rows=hard_rows())
def test_hard_rows(case: Case, rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    check_hard_rows(case, rows)


@pytest.mark.slow
@every_case
@settings(max_examples=200, deadline=None)
@given(rows=hard_rows())
def test_more_hard_rows(case: Case, rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    check_hard_rows(case, rows)


@every_case
def test_float_mode_equals_reference(case: Case) -> None:
    scores, mask = normal(50, 33, dtype=torch.float64) * 3, random_mask(50, 33, attended=0.7)
    truth = case.spec.reference(scores.numpy(), mask.numpy(), **case.parameters)
    result = module_of(case, "float")(scores, mask).detach().numpy()
    tolerance = BY_METHOD[case.spec.method].float_tolerance * max(1.0, truth.max())
    assert np.abs(result - truth).max() <= tolerance


@pytest.mark.parametrize("case", [case for case in CASES if BY_METHOD[case.spec.method].smooth], ids=str)
def test_gradcheck_in_float_mode(case: Case) -> None:
    module = module_of(case, "float").double()
    scores = normal(3, 7, dtype=torch.float64).requires_grad_()
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[0, 2:] = False
    mask[1] = False
    parameters = tuple(module.parameters())

    def run(values: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return module(values, mask)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(run, (scores, *parameters))


def gradient(case: Case, scores: torch.Tensor, mode: str) -> torch.Tensor:
    values = scores.clone().requires_grad_()
    weights = torch.linspace(-1, 1, scores.shape[-1])
    (module_of(case, mode)(values) * weights).sum().backward()
    assert values.grad is not None
    return values.grad


@every_method
def test_integer_gradients_are_those_of_the_float_form_where_nothing_saturates(case: Case) -> None:
    scores = normal(20, 16)
    integer, floating = (gradient(case, scores, mode) for mode in ("integer", "float"))
    # A native kernel rounds differently from torch: exp and sums of 16 terms, a few units in the last place.
    assert torch.allclose(integer, floating, rtol=1e-5, atol=1e-7)


@every_method
def test_no_gradient_where_scores_saturate(case: Case) -> None:
    low, high = case.spec.score_limits(case.constants)
    scores = torch.tensor([[0.5, 1.0, 1.5 * high, 1.5 * low]])
    assert (gradient(case, scores, "integer")[0, 2:] == 0).all()


@both_modes
@every_method
def test_nan_and_infinity(case: Case, mode: str) -> None:
    module = module_of(case, mode)
    scores = torch.tensor([[0.0, torch.nan, 1.0], [0.0, torch.nan, 1.0], [0.0, -torch.inf, 1.0], [-torch.inf] * 3])
    mask = torch.ones(4, 3, dtype=torch.bool)
    mask[1, 1] = False
    result = module(scores, mask)
    alone = case.spec.dataflow == "element"
    assert result[0].isnan().tolist() == ([False, True, False] if alone else [True] * 3)
    assert torch.equal(result[1], result[2])
    assert result[1, 1] == 0
    assert (result[3] == 0).all()


@both_modes
@every_method
def test_infinity_is_as_in_torch_softmax(case: Case, mode: str) -> None:
    result = module_of(case, mode)(torch.tensor([[0.0, torch.inf, 1.0], [0.0, 0.5, 1.0]]))
    assert result[0].isnan().all() or case.spec.dataflow == "element"
    assert result[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@every_method
def test_results_have_the_dtype_of_the_scores(case: Case, dtype: torch.dtype) -> None:
    scores = normal(4, 9).to(dtype)
    for mode in ("float", "integer"):
        module = module_of(case, mode)
        result = module(scores)
        assert result.dtype == dtype
        assert torch.equal(result, module(scores.double()).to(dtype)) or dtype != torch.float64
        assert torch.allclose(result.double(), module(scores.double()).double(), rtol=0.01)


@every_method
def test_any_dimension(case: Case) -> None:
    scores, mask = normal(3, 6, 5), random_mask(3, 6, 5, attended=0.7)
    module = module_of(case, "integer")
    expected = module(scores.movedim(1, -1), mask.movedim(1, -1)).movedim(-1, 1)
    assert torch.equal(module(scores, mask, dim=1), expected)
    assert torch.equal(module(scores, mask, dim=-2), expected)
    with pytest.raises(IndexError, match="dim must be from -3 to 2 for 3 dimensions, got 3"):
        softmaxkit.softmax(scores, case.spec, dim=3, **case.numbers)


@every_method
def test_frozen_constants_are_used_until_the_module_trains(case: Case) -> None:
    module, other = module_of(case, "integer"), case.spec.examples()[-1]
    own = module.constants
    module.freeze(other)
    assert module.constants == other
    module.train()
    assert module.constants == own


@every_method
def test_frozen_constants_belong_to_the_parameters_they_came_with(case: Case) -> None:
    module, changed = module_of(case, "integer"), module_of(case, "integer")
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter += 0.5
    frozen = case.spec.examples()[-1]
    module.freeze(frozen)
    assert module.bfloat16().float().bfloat16().constants == frozen  # rounding is no change
    module.freeze(frozen)
    module.float().load_state_dict(changed.state_dict())
    assert module.constants == (changed.constants if list(module.parameters()) else frozen)


@both_modes
@every_method
def test_the_module_compiles(case: Case, mode: str) -> None:
    torch.compiler.reset()  # otherwise each case counts towards the limit on recompilations
    scores, module = normal(2, 4, 8, 8), module_of(case, mode, heads=4)
    compiled = torch.compile(module, backend="eager", fullgraph=mode == "float")
    assert torch.equal(compiled(scores), module(scores))


@both_modes
@every_method
def test_one_call_for_tensors_and_arrays(case: Case, mode: str) -> None:
    scores, numbers = normal(4, 7), dict(case.numbers)
    tensor = softmaxkit.softmax(scores, case.spec, mode=mode, dim=0, **numbers)
    assert torch.equal(tensor, module_of(case, mode)(scores, dim=0))
    array = softmaxkit.softmax(scores.numpy(), case.spec, mode=mode, dim=0, **numbers)
    assert isinstance(array, np.ndarray)
    assert (array == tensor.detach().numpy()).all()


def test_one_call_equals_torch_softmax() -> None:
    scores = normal(4, 7)
    assert torch.allclose(softmaxkit.softmax(scores, BASELINE), torch.softmax(scores, -1))
    assert np.allclose(softmaxkit.softmax([0.0, 0.0], BASELINE), 0.5)


def test_arrays_of_any_layout_and_no_single_number() -> None:
    scores = np.array([0.5, -1.0, 2.0])
    expected, of_file = softmaxkit.softmax(scores, BASELINE), scores.copy()
    of_file.flags.writeable = False
    for array in (of_file, scores.astype(">f8"), np.stack([scores, scores], 1)[:, 0]):
        assert (softmaxkit.softmax(array, BASELINE) == expected).all()
    with pytest.raises(ValueError, match="got a scalar"):
        softmaxkit.softmax(np.array(3.0), BASELINE)
    with pytest.raises(TypeError, match="scores must be floating-point of up to 64 bits, got complex128"):
        softmaxkit.softmax(scores * 1j, BASELINE)


def test_numpy_masks_of_any_layout() -> None:
    mask = np.array([True, False, True, True])[::-1]
    assert np.allclose(softmaxkit.softmax(np.zeros(4), BASELINE, mask=mask), mask / 3)
    with pytest.raises(TypeError, match="the mask must be a boolean torch tensor"):
        BASELINE.module()(torch.zeros(4), mask)


def test_invalid_input_is_refused_with_a_remedy() -> None:
    scores, spec_class = torch.zeros(2, 3), type(BASELINE)
    with pytest.raises(ValueError, match=r"mask of shape \(2, 4\) does not broadcast to scores of shape \(2, 3\)"):
        softmaxkit.softmax(scores, BASELINE, mask=torch.ones(2, 4, dtype=torch.bool))
    for of_torch in (scores, scores.numpy()):
        with pytest.raises(TypeError, match="got -1; pass the dimension by name, dim=-1"):
            softmaxkit.softmax(of_torch, BASELINE, -1)
    with pytest.raises(ValueError, match="a mask must be boolean"):
        softmaxkit.softmax(scores, BASELINE, mask=torch.zeros(2, 3))
    with pytest.raises(TypeError, match=r"scores (are|must be) floating"):
        softmaxkit.softmax(torch.zeros(2, 3, dtype=torch.long), BASELINE)
    with pytest.raises(TypeError, match="scores must be floating-point"):
        softmaxkit.softmax(np.zeros(3, np.int64), BASELINE)
    with pytest.raises(TypeError, match=rf"pass a spec, {spec_class.__name__}\(\), not the class"):
        softmaxkit.softmax(scores, spec_class)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected a spec such as softmaxkit.Softermax\(\)"):
        softmaxkit.softmax(scores, "exact")  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match=f"did you mean '{spec_class.__name__}'"):
        getattr(softmaxkit, spec_class.__name__.upper())
    with pytest.raises(ValueError, match="mode must be 'float', 'integer' or 'fused', got 'int'"):
        BASELINE.module(mode="int")
    for mode in ("fused", ["float"], None):
        with pytest.raises(ValueError, match=r"mode must be 'float' or 'integer', got .*; 'fused' is a mode of"):
            softmaxkit.softmax(scores, BASELINE, mode=mode)  # type: ignore[arg-type]
    elsewhere = torch.ones(2, 3, dtype=torch.bool, device="meta")
    for mode in ("float", "integer"):
        with pytest.raises(ValueError, match=r'mask must be on .*, cpu, got meta; pass mask\.to\("cpu"\)'):
            softmaxkit.softmax(scores, BASELINE, elsewhere, mode=mode)
    with pytest.raises(TypeError, match="scores must be a torch tensor, got list"):
        BASELINE.module()([[0.0]])
    for dim in (1.0, None, True, (0, 1)):
        with pytest.raises(TypeError, match="dim must be an integer, got"):
            softmaxkit.softmax(scores, BASELINE, dim=dim)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no parameter 'other'"):
        softmaxkit.softmax(scores, BASELINE, other=-1.0)
