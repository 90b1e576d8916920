"""The integers of every method on GPUs against golden: bit-identical for every form, row and mask."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import BY_METHOD
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from integer_forms import (
    FORMS,
    IDS,
    equal,
    golden,
    kernel_of,
    mask_of,
    module_of,
    scores_of,
    specs,
    with_a_changed_entry,
)
from softmaxkit import Exact, Exaq, Float, Spec
from softmaxkit.kernels import backends, builds

pytest.importorskip("triton")
LENGTHS = (1, 7, 33, 100)
DEFAULTS = [form for form in FORMS if form[0] == BY_METHOD[form[0].method].default.spec]


def on(module: Any, device: torch.device) -> Any:
    return module.to(device)


def every_form() -> Iterator[Any]:
    """Yield their places; to the kernels those that name another clip are the same, and run in the slow tests."""
    for form, ((spec, _), name) in enumerate(zip(FORMS, IDS, strict=True)):
        marks = pytest.mark.slow if isinstance(spec, Exaq) and spec.clip != "gaussian" else []
        yield pytest.param(form, id=name, marks=marks)


@pytest.mark.parametrize("form", every_form())
def test_kernels_equal_golden(form: int, device: torch.device) -> None:
    module = on(module_of(*FORMS[form]), device)
    assert module.choose_integers(torch.zeros(1, device=device))[1].backend == "triton"
    with torch.no_grad():
        for keys, mask in zip(LENGTHS, ("none", "random", "rows", "random"), strict=True):
            scores, seen = (None if x is None else x[:1] for x in (scores_of(keys), mask_of(mask, keys)))
            assert scores is not None
            truth = golden(module_of(*FORMS[form]), scores, seen)
            result = module(scores.to(device), None if seen is None else seen.to(device)).cpu()
            assert equal(result, truth), (keys, mask)


@pytest.mark.parametrize("keys", [2500, 20000])
@pytest.mark.slow
@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_long_rows(spec: Spec, numbers: dict[str, Any], keys: int, device: torch.device) -> None:
    scores = scores_of(keys)[:1, :, ::7]
    module = on(module_of(spec, numbers), device)
    with torch.no_grad():
        assert equal(module(scores.to(device)).cpu(), golden(module_of(spec, numbers), scores))


@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_masked_keys_are_0_in_rows_with_nan_or_infinity(
    spec: Spec, numbers: dict[str, Any], device: torch.device
) -> None:
    rows = torch.tensor([[math.nan, 1.0, -math.inf, 0.5], [math.inf, 1.0, -math.inf, 0.5]], device=device)
    mask = torch.tensor([True, False, True, True], device=device)
    result = kernel_of(on(module_of(spec, numbers), device))(rows.expand(3, 2, 4), mask)
    assert (result[..., 1:3] == 0).all()
    if spec.dataflow == "element":
        assert result.isnan().nonzero().tolist() == [[head, 0, 0] for head in range(3)]
    else:
        assert result[..., [0, 3]].isnan().all()


@pytest.mark.parametrize("spec", [Exact(format=Float(4, 6)), pytest.param(Exact(), marks=pytest.mark.slow)], ids=str)
def test_every_distance_to_the_maximum(spec: Exact, device: torch.device) -> None:
    """Distances that the format says, and those halfway and next to halfway between."""
    values = spec.format.decode(torch.arange(1 << (spec.format.bits - 1), device="cpu")).float()
    values = values[values < 20]
    between = (values[:-1] + values[1:]) / 2
    far = [values, between, between.nextafter(torch.zeros(())), between.nextafter(torch.full((), math.inf))]
    rows = -torch.cat(far)[:, None] + torch.tensor([[0.0], [0.75], [8.0]])[:, None]
    rows = torch.cat((rows, torch.tensor([[[0.0]], [[0.75]], [[8.0]]]).expand_as(rows)), dim=-1)[:, ::5]
    module = on(spec.module(mode="integer"), device)
    with torch.no_grad():
        assert equal(module(rows.to(device)).cpu(), golden(spec.module(mode="integer"), rows))


@settings(max_examples=25, deadline=None)
@given(case=specs(), keys=st.integers(1, 70), spread=st.sampled_from([0.1, 2.0, 20.0]), seed=st.integers(0, 1 << 30))
def check_any_formats(device: torch.device, case: Any, keys: int, spread: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(4, keys, generator=generator) * spread
    mask = torch.rand(4, keys, generator=generator) < 0.8
    spec, numbers = case
    module = on(spec.module(mode="integer", **numbers), device)
    kernel_of(module)
    with torch.no_grad():
        truth = golden(spec.module(mode="integer", **numbers), scores, mask)
        assert equal(module(scores.to(device), mask.to(device)).cpu(), truth)


def test_any_formats(device: torch.device) -> None:
    check_any_formats(device)


@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_any_strides_axes_and_masks_that_broadcast(spec: Spec, numbers: dict[str, Any], device: torch.device) -> None:
    module, by_golden = on(module_of(spec, numbers), device), module_of(spec, numbers)
    scores = scores_of(17)[:, :, 2:6]
    wide = torch.randn(2, 3, 4, 34)
    wide[..., ::2] = scores
    with torch.no_grad():
        truth = golden(by_golden, scores)
        assert equal(module(wide.to(device)[..., ::2]).cpu(), truth)
        assert equal(module(scores.to(device).transpose(-1, -2), dim=-2).cpu(), truth.transpose(-1, -2))
        assert equal(module(scores.to(device).expand(2, 1, 2, 3, 4, 17)).cpu(), truth.expand(2, 1, 2, 3, 4, 17))
        assert module(scores.to(device)[..., :0]).shape == (2, 3, 4, 0)
        for shape in ((), (17,), (4, 1), (3, 1, 17), (2, 1, 4, 17), (2, 3, 1, 1)):
            mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.5
            assert equal(module(scores.to(device), mask.to(device)).cpu(), golden(by_golden, scores, mask)), shape


@pytest.mark.parametrize(("spec", "numbers"), DEFAULTS, ids=lambda x: getattr(x, "method", ""))
def test_one_changed_entry_of_a_table_shows(spec: Spec, numbers: dict[str, Any], device: torch.device) -> None:
    scores = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    scores[0, 0, 0, 0] = 0.0
    kernel, truth = kernel_of(on(module_of(spec, numbers), device)), golden(module_of(spec, numbers), scores)
    assert torch.equal(kernel(scores.to(device)).cpu(), truth)
    assert not torch.equal(with_a_changed_entry(kernel, spec.method)(scores.to(device)).cpu(), truth)


def test_tables_on_a_device_live_as_long_as_their_call(device: torch.device) -> None:
    """A CUDA graph reads them again, however many other calls have been made since; afterwards their memory is free."""
    from softmaxkit.kernels.triton.integers import numbers_on, tables_of

    calls = [kernel_of(module_of(*DEFAULTS[0])) for _ in range(2)]
    other = copy.copy(calls[0])

    def make() -> list[Tensor]:
        return [numbers_on(device, (0.5, 2.0), torch.float64)]

    first = tables_of(calls[0], device, make)
    many = [copy.copy(calls[1]) for _ in range(300)]
    assert all(tables_of(call, device, make)[0] is not first[0] for call in (other, *many))
    assert tables_of(calls[0], device, make) is first
    table = weakref.ref(first[0])
    del first
    calls.clear()
    assert table() is None


def test_gradients_are_those_of_golden(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, numbers = DEFAULTS[0]

    def run() -> Tensor:
        scores = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
        (on(module_of(spec, numbers), device)(scores) * torch.linspace(-1, 1, 8, device=device)).sum().backward()
        assert scores.grad is not None
        return scores.grad

    ours = run()
    monkeypatch.setenv(builds.VARIABLE, "none")
    backends.reset()
    # The float form's kernel errs by some roundings where torch's softmax errs by others.
    torch.testing.assert_close(ours, run(), rtol=2.0**-18, atol=2.0**-18)
