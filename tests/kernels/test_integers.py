"""Integer mode through native kernels against golden: equal in every bit, for every form, row and instruction set."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

import pytest
import torch
from cases import BY_METHOD
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from softmaxkit import FP16, UQ, ConSmax, Exact, Exaq, Float, Q, Sigmoid, Softermax, Spec
from softmaxkit.kernels import backends
from softmaxkit.kernels.integers import IntegerCall
from softmaxkit.methods import METHODS, method_class
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import attended_keys

if backends.native() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

HEADS = 3
LENGTHS = (1, 2, 3, 7, 16, 17, 33, 64, 100, 1000)
MASKS = ("none", "random", "rows")
PER_HEAD: dict[str, Any] = {"beta": [0.5, 1.5, -1.0], "gamma": [9.0, 5.0, 0.7]}
NUMBERS: dict[str, dict[str, Any]] = {
    **{name: dict(cases.default.numbers) for name, cases in BY_METHOD.items()},
    "consmax": {**PER_HEAD, "scale": [0.07, 1 / 16, 0.031]},
}
WITH_KERNEL = [name for name in METHODS if name != "index"]  # whose golden runs by torch
FORMS: list[tuple[Spec, dict[str, Any]]] = [
    *((spec, NUMBERS[name]) for name in WITH_KERNEL for spec in method_class(name).variants()),
    (Exact(schedule="online"), {}),
    (Exact(schedule="online", slice_width=5, format=Float(5, 7), exponential_segments=16), {}),
    (Exact(format=Float(5, 12), reciprocal_segments=8), {}),
    (Exact(format=Float(4, 3), exponential_segments=8, reciprocal_segments=8), {}),
    (ConSmax(table_format=FP16, constant="multiplied", output_bits=16), {"beta": 0.1, "gamma": 20.0, "scale": 0.2}),
    (ConSmax(bits=16, product_bits=24, share="layer"), {"beta": 0.5, "gamma": 9.0, "scale": 1 / 4096}),
    (ConSmax(bits=16, table_format=UQ(0, 10), output_bits=16), {**PER_HEAD, "scale": 1 / 3000}),
    (ConSmax(table_format=UQ(0, 9), ceiling=3.0), PER_HEAD),
    (ConSmax(tables="shift"), PER_HEAD),
    (ConSmax(tables="whole"), {**PER_HEAD, "largest": [0.2, 1.0, 0.01]}),
    (Exact(exponential_segments=1, taylor_degree=3), {}),
    (Sigmoid(scores=Q(5, 5), output=UQ(0, 8)), {"bias": [-5.5, 0.0, 2.5]}),
    (Softermax(maximum="global", integer_maximum="floor", rounding="floor"), {}),
    (Softermax(input=Q(6, 4), power_segments=8, output=UQ(1, 15), slice_width=32), {}),
    (Softermax(input=Q(6, 10), unnormalised=UQ(1, 23), reciprocal=UQ(1, 20), output=UQ(1, 24), slice_width=7), {}),
    (Softermax(power_sum=UQ(4, 12), integer_maximum="floor", log2e=True), {}),
    (Exaq(bits=3, scale="calibrated", accumulator="histogram"), {"clip": -6.3, "scale": 0.11}),
    (Exaq(bits=4, accumulator="plain", scores=Q(5, 11), output=UQ(1, 20), reciprocal=UQ(1, 12)), {"clip": -8.0}),
]
IDS = [f"{spec.method} {spec.variant}".strip() for spec, _ in FORMS]
DEFAULTS = [next(form for form in FORMS if form[0].method == name) for name in WITH_KERNEL]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    backends.reset()  # the environment may have asked for another


@pytest.fixture(params=backends.NATIVE)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a test with the kernels of each instruction set that this processor has."""
    if request.param not in import_module("softmaxkit.kernels._plain").supported():
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv("SOFTMAXKIT_KERNELS", request.param)
    backends.reset()
    assert str(backends.native()).count(f"softmaxkit.kernels._{request.param}")
    yield
    backends.reset()


def module_of(spec: Spec, numbers: dict[str, Any]) -> SoftmaxModule:
    return spec.module(heads=HEADS, mode="integer", **numbers).eval()


def kernel_of(module: SoftmaxModule) -> IntegerCall:
    kernel = module.choose_integers(torch.zeros(1))[0]
    assert kernel is not None
    return kernel


@cache
def scores_of(keys: int) -> Tensor:
    """Rows of every spread, and rows that break things: ties of codes, extremes, NaN and infinities."""
    generator = torch.Generator().manual_seed(keys)
    spreads = torch.tensor([0.1, 1.0, 4.0, 30.0, 1000.0, 1e30])
    plain = torch.randn(2, HEADS, len(spreads), keys, generator=generator) * spreads[:, None]
    codes = torch.randint(-260, 260, (2, HEADS, 4, keys), generator=generator) / 2
    ties = codes * torch.tensor([1 / 16, 1 / 4, 0.07, 0.11])[:, None]
    special = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 65504.0, 3e38, -3e38, 1e-40])
    odd = torch.randn(2, HEADS, len(special), keys, generator=generator)
    odd[..., 0] = odd[..., keys // 2] = special
    return torch.cat((plain, ties, odd, torch.full((2, HEADS, 1, keys), -math.inf)), dim=-2)


@cache
def mask_of(name: str, keys: int) -> Tensor | None:
    shape = scores_of(keys).shape
    rows = torch.rand(2, 1, shape[-2], 1, generator=torch.Generator().manual_seed(1)) < 0.6
    if name == "random":
        return rows & (torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.7)
    return rows if name == "rows" else None


def golden(module: SoftmaxModule, scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute what the integer mode computes without kernels."""
    attended = attended_keys(scores, mask)
    with torch.no_grad():
        return module.decoded_golden(torch.where(attended, scores, 0.0), attended)


@cache
def expected(form: int) -> list[Tensor]:
    module = module_of(*FORMS[form])
    return [golden(module, scores_of(keys), mask_of(name, keys)) for keys in LENGTHS for name in MASKS]


def equal(one: Tensor, other: Tensor) -> bool:
    nan = one.isnan()
    return torch.equal(nan, other.isnan()) and torch.equal(one[~nan], other[~nan])


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("form", range(len(FORMS)), ids=IDS)
def test_kernels_equal_golden(form: int) -> None:
    module = module_of(*FORMS[form])
    kernel_of(module)
    cases = [(keys, name) for keys in LENGTHS for name in MASKS]
    with torch.no_grad():
        for (keys, name), truth in zip(cases, expected(form), strict=True):
            assert equal(module(scores_of(keys), mask_of(name, keys)), truth), (keys, name)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_masked_keys_are_0_in_rows_with_nan_or_infinity(spec: Spec, numbers: dict[str, Any]) -> None:
    scores = torch.tensor([[math.nan, 1.0, -math.inf, 0.5], [math.inf, 1.0, -math.inf, 0.5]]).expand(HEADS, 2, 4)
    result = kernel_of(module_of(spec, numbers))(scores, torch.tensor([True, False, True, True]))
    assert (result[..., 1:3] == 0).all()
    if spec.dataflow == "element":
        assert result.isnan().nonzero().tolist() == [[head, 0, 0] for head in range(HEADS)]
    else:
        assert result[..., [0, 3]].isnan().all()


@pytest.mark.parametrize("spec", [Exact(), Exact(format=Float(5, 12)), Exact(format=Float(4, 6))], ids=str)
def test_every_distance_to_the_maximum(spec: Exact) -> None:
    """Distances that the format says, and those halfway and next to halfway between."""
    values = spec.format.decode(torch.arange(1 << (spec.format.bits - 1))).float()
    values = values[values < 20]  # exponentials from 16 on are 0
    between = (values[:-1] + values[1:]) / 2
    far = [values, between, between.nextafter(torch.zeros(())), between.nextafter(torch.full((), math.inf))]
    rows = -torch.cat(far)[:, None] + torch.tensor([[0.0], [0.75], [8.0]])[:, None]
    rows = torch.cat((rows, torch.tensor([[[0.0]], [[0.75]], [[8.0]]]).expand_as(rows)), dim=-1)
    module = spec.module(mode="integer")
    with torch.no_grad():
        assert equal(module(rows), golden(module, rows))


@st.composite
def specs(draw: st.DrawFn) -> tuple[Spec, dict[str, Any]]:
    """Specs of any formats that can be, the methods' own checks aside."""

    def fixed(integers: tuple[int, int], most: int) -> Any:
        return UQ(draw(st.integers(*integers)), draw(st.integers(1, most)))

    segments = st.sampled_from([1, 2, 4, 8, 16])
    rows: dict[str, Any] = {"reciprocal": fixed((1, 1), 18), "output": fixed((0, 2), 18)}
    rows["reciprocal_segments"] = draw(segments)
    try:
        if draw(st.booleans()):
            rows |= {
                "unnormalised": fixed((1, 4), 20),
                "power_sum": fixed((1, 12), 12),
                "power_segments": draw(segments),
            }
            rows["input"] = Q(draw(st.integers(1, 8)), draw(st.integers(0, 6)))
            choices = Softermax.choices()
            rows |= {name: draw(st.sampled_from(choices[name])) for name in choices}
            return Softermax(slice_width=draw(st.integers(1, 40)), log2e=draw(st.booleans()), **rows), {}
        rows |= {"exponential": fixed((1, 4), 18), "scores": Q(draw(st.integers(1, 8)), draw(st.integers(0, 8)))}
        clip, scale = draw(st.floats(-40, -0.01)), draw(st.floats(0.001, 2))
        return Exaq(bits=draw(st.sampled_from([2, 3, 4])), **rows), {"clip": clip, "scale": scale}
    except ValueError:
        assume(False)
        raise


@settings(max_examples=120, deadline=None)
@given(case=specs(), keys=st.integers(1, 70), spread=st.sampled_from([0.1, 2.0, 20.0]), seed=st.integers(0, 1 << 30))
def test_any_formats(case: tuple[Spec, dict[str, Any]], keys: int, spread: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(4, keys, generator=generator) * spread
    mask = torch.rand(4, keys, generator=generator) < 0.8
    spec, numbers = case
    module = spec.module(mode="integer", **numbers)
    kernel_of(module)
    with torch.no_grad():
        assert equal(module(scores, mask), golden(module, scores, mask))


@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_any_strides_axes_and_masks_that_broadcast(spec: Spec, numbers: dict[str, Any]) -> None:
    module = module_of(spec, numbers)
    scores = scores_of(17)[:, :, :10]
    wide = torch.randn(2, HEADS, 10, 34)
    wide[..., ::2] = scores
    with torch.no_grad():
        truth = golden(module, scores)
        assert equal(module(wide[..., ::2]), truth)
        assert equal(module(scores.transpose(-1, -2), dim=-2), truth.transpose(-1, -2))
        assert equal(module(scores.expand(2, 2, 2, HEADS, 10, 17)), truth.expand(2, 2, 2, HEADS, 10, 17))
        assert equal(module(scores.double()), truth.double())
        assert equal(module(scores.half()), golden(module, scores.half().float()).half())
        assert module(scores[..., :0]).shape == (2, HEADS, 10, 0)
        for shape in ((), (17,), (10, 1), (10, 17), (HEADS, 1, 17), (2, 1, 10, 17), (2, HEADS, 1, 1)):
            mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.5
            assert equal(module(scores, mask), golden(module, scores, mask)), shape


@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_one_changed_entry_of_a_table_shows(spec: Spec, numbers: dict[str, Any]) -> None:
    module = module_of(spec, numbers)
    scores = torch.randn(2, HEADS, 4, 8, generator=torch.Generator().manual_seed(0))
    scores[0, 0, 0, 0] = 0.0
    kernel, truth = kernel_of(module), golden(module, scores)
    assert torch.equal(kernel(scores), truth)
    # The entry of a score at the maximum; where there is none, of the score 0.
    name, place = {
        "exact": ("exponentials", 0),
        "consmax": ("probabilities", (0, 0, 128)),
        "softermax": ("powers", -4),
        "exaq": ("exponentials", -1),
        "sigmoid": ("probabilities", (0, 0, 128)),
    }[spec.method]
    table = torch.as_tensor(getattr(kernel, name)).clone()
    table[place] = 0
    changed = table if isinstance(getattr(kernel, name), Tensor) else tuple(table.tolist())
    assert not torch.equal(dataclasses.replace(kernel, **{name: changed})(scores), truth)


@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_threads_change_nothing(spec: Spec, numbers: dict[str, Any]) -> None:
    kernel = kernel_of(module_of(spec, numbers))
    scores = torch.randn(20, HEADS, 9, 200) * 4
    before, alone = torch.get_num_threads(), kernel(scores)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert all(torch.equal(kernel(scores), alone) for _ in range(5))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_gradients_are_those_without_kernels(
    spec: Spec, numbers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> tuple[Tensor, Tensor]:
        scores = scores_of(33)[:, :, :10].clone().requires_grad_()
        result = module_of(spec, numbers)(scores, mask_of("random", 33)[:, :, :10])  # type: ignore[index]
        (result * torch.linspace(-1, 1, 33)).sum().backward()
        assert scores.grad is not None
        return result.detach(), scores.grad

    native = run()
    monkeypatch.setenv(backends.VARIABLE, "none")
    backends.reset()
    assert all(torch.equal(one, other) for one, other in zip(native, run(), strict=True))


def test_the_kernel_follows_the_constants() -> None:
    module = module_of(ConSmax(), NUMBERS["consmax"])
    scores = scores_of(16)
    with torch.no_grad():
        before, kernel = module(scores), module.choose_integers(torch.zeros(1))[0]
        assert module.choose_integers(torch.zeros(1))[0] is kernel
        module.beta += 0.5
        assert not equal(module(scores), before)
        assert equal(module(scores), golden(module, scores))


def test_what_kernels_do_not_cover_goes_to_golden() -> None:
    wide = {"power_sum": UQ(1, 31), "output": UQ(1, 31), "reciprocal": UQ(1, 20), "unnormalised": UQ(1, 1)}
    module = Softermax(**wide).module(mode="integer")
    assert module.choose_integers(torch.zeros(1))[0] is None
    with torch.no_grad():
        assert equal(module(scores_of(16)), golden(module, scores_of(16)))
    with pytest.raises(ValueError, match=r"scores are \(..., 3, queries, keys\), not \(2, 8\)"):
        kernel_of(module_of(ConSmax(), NUMBERS["consmax"]))(torch.zeros(2, 8))
