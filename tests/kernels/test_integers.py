"""Integer mode by native kernels against golden: bit-identical for every form, row length and instruction set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from integer_forms import (
    DEFAULTS,
    FORMS,
    HEADS,
    IDS,
    NUMBERS,
    equal,
    golden,
    kernel_of,
    mask_of,
    module_of,
    scores_of,
    specs,
    with_a_changed_entry,
)
from softmaxkit import UQ, ConSmax, Exact, Float, Softermax, Spec
from softmaxkit.kernels import backends, builds

if backends.native() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

LENGTHS = (1, 2, 3, 7, 16, 17, 33, 64, 100, 1000)
MASKS = ("none", "random", "rows")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    backends.reset()  # a test may have selected another back end


@pytest.fixture(params=builds.NATIVE)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a test with the kernels of each instruction set that this processor has."""
    if request.param not in builds.supported():
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv("SOFTMAXKIT_KERNELS", request.param)
    backends.reset()
    assert str(backends.native()).count(f"softmaxkit.kernels._{request.param}")
    yield
    backends.reset()


@cache
def expected(form: int) -> list[Tensor]:
    module = module_of(*FORMS[form])
    return [golden(module, scores_of(keys), mask_of(name, keys)) for keys in LENGTHS for name in MASKS]


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
    """Distances that the format represents, the midpoints between them, and the nearest floats to these."""
    values = spec.format.decode(torch.arange(1 << (spec.format.bits - 1))).float()
    values = values[values < 20]  # exponentials from 16 on are 0
    between = (values[:-1] + values[1:]) / 2
    far = [values, between, between.nextafter(torch.zeros(())), between.nextafter(torch.full((), math.inf))]
    rows = -torch.cat(far)[:, None] + torch.tensor([[0.0], [0.75], [8.0]])[:, None]
    rows = torch.cat((rows, torch.tensor([[[0.0]], [[0.75]], [[8.0]]]).expand_as(rows)), dim=-1)
    module = spec.module(mode="integer")
    with torch.no_grad():
        assert equal(module(rows), golden(module, rows))


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
        assert equal(module(scores.double()).float(), truth)
        assert equal(module(scores.half()), golden(module, scores.half().float()).half())
        assert module(scores[..., :0]).shape == (2, HEADS, 10, 0)
        for shape in ((), (17,), (10, 1), (10, 17), (HEADS, 1, 17), (2, 1, 10, 17), (2, HEADS, 1, 1)):
            mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.5
            assert equal(module(scores, mask), golden(module, scores, mask)), shape


@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_a_changed_table_entry_changes_the_result(spec: Spec, numbers: dict[str, Any]) -> None:
    module = module_of(spec, numbers)
    scores = torch.randn(2, HEADS, 4, 8, generator=torch.Generator().manual_seed(0))
    scores[0, 0, 0, 0] = 0.0
    kernel, truth = kernel_of(module), golden(module, scores)
    assert torch.equal(kernel(scores), truth)
    assert not torch.equal(with_a_changed_entry(kernel, spec.method)(scores), truth)


@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_results_do_not_depend_on_the_number_of_threads(spec: Spec, numbers: dict[str, Any]) -> None:
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
    monkeypatch.setenv(builds.VARIABLE, "none")
    backends.reset()
    result, gradient = run()
    assert torch.equal(native[0], result)
    # That of the float form, in which kernels and torch's functions err by some roundings of what they add up.
    assert torch.equal(native[1].isnan(), gradient.isnan())
    torch.testing.assert_close(native[1], gradient, rtol=2.0**-18, atol=2.0**-18, equal_nan=True)


def test_the_kernel_follows_the_constants() -> None:
    module = module_of(ConSmax(), NUMBERS["consmax"])
    scores = scores_of(16)
    with torch.no_grad():
        before, kernel = module(scores), module.choose_integers(torch.zeros(1))[0]
        assert module.choose_integers(torch.zeros(1))[0] is kernel
        module.beta += 0.5
        assert not equal(module(scores), before)
        assert equal(module(scores), golden(module, scores))


def test_forms_without_a_kernel_run_golden() -> None:
    wide = {"power_sum": UQ(1, 31), "output": UQ(1, 31), "reciprocal": UQ(1, 20), "unnormalised": UQ(1, 1)}
    module = Softermax(**wide).module(mode="integer")
    assert module.choose_integers(torch.zeros(1))[0] is None
    with torch.no_grad():
        assert equal(module(scores_of(16)), golden(module, scores_of(16)))
    with pytest.raises(ValueError, match=r"scores must be \(..., 3, queries, keys\), got \(2, 8\)"):
        kernel_of(module_of(ConSmax(), NUMBERS["consmax"]))(torch.zeros(2, 8))
