"""Learned numbers of modules and calls under the tools of training: parametrisations, the meta device, torch.func."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.func import grad, vmap
from torch.nn.utils import parametrize

import softmaxkit
from softmaxkit import ConSmax, Exaq, Sigmoid, Spec

NUMBERS: dict[Spec, dict[str, Any]] = {
    ConSmax(): {"beta": [0.5, 1.5], "gamma": 30.0},
    Sigmoid(): {"bias": [-2.0, -1.0]},
}
LEARNING = pytest.mark.parametrize("spec", NUMBERS, ids=lambda spec: spec.method)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


class Shift(nn.Module):
    """A parametrisation with a state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = 0.0

    def forward(self, original: Tensor) -> Tensor:
        return original + self.shift


@LEARNING
def test_integers_follow_a_parametrisation(spec: Spec) -> None:
    module = spec.module(heads=2, mode="integer", **NUMBERS[spec])
    name = next(iter(dict(module.named_parameters())))
    shifted, scores = copy.deepcopy(module), normal(1, 2, 4, 8)
    with torch.no_grad():
        shifted.get_parameter(name).add_(0.5)
    before = module(scores)
    parametrize.register_parametrization(module, name, Shift())
    assert torch.equal(module(scores), before)
    module.eval().freeze(module.constants)
    module.parametrizations[name][0].shift = 0.5  # type: ignore[index, union-attr]
    assert module.constants == shifted.constants
    assert torch.equal(module(scores), shifted(scores))


@LEARNING
@pytest.mark.parametrize("heads", [2, None])
def test_a_module_made_on_the_meta_device_takes_its_parameters_later(spec: Spec, heads: int | None) -> None:
    numbers = NUMBERS[spec] if heads else {}
    module, scores = spec.module(heads=heads, mode="integer", **numbers), normal(1, 2, 4, 8)
    for assign in (False, True):
        with torch.device("meta"):
            other = spec.module(heads=heads, mode="integer")
            with pytest.raises(ValueError, match="finite"):
                spec.module(heads=heads, **dict.fromkeys(NUMBERS[spec], torch.nan))
        assert all(x.is_meta for x in other.state_dict().values())
        if not assign:
            other.to_empty(device="cpu")
        other.load_state_dict(module.state_dict(), assign=assign)
        assert torch.equal(other(scores), module(scores))


def learned_of(spec: Spec, dtype: torch.dtype) -> dict[str, Tensor]:
    numbers = {name: torch.as_tensor(x, dtype=dtype).expand(2).clone() for name, x in NUMBERS[spec].items()}
    return {name: x.requires_grad_() for name, x in numbers.items()}


@LEARNING
def test_gradcheck_of_numbers_passed_to_calls(spec: Spec) -> None:
    learned, scores = learned_of(spec, torch.float64), normal(2, 3, 7, dtype=torch.float64).requires_grad_()
    query = normal(1, 2, 3, 4, dtype=torch.float64)

    def softmax(scores: Tensor, *numbers: Tensor) -> Tensor:
        return softmaxkit.softmax(scores, spec, **dict(zip(learned, numbers, strict=True)))

    def attention(*numbers: Tensor) -> Tensor:
        return softmaxkit.attention(query, query, query, spec, **dict(zip(learned, numbers, strict=True)))

    assert gradcheck(softmax, (scores, *learned.values()))
    assert gradcheck(attention, tuple(learned.values()))


@LEARNING
def test_numbers_passed_to_calls_can_be_mapped(spec: Spec) -> None:
    learned = {name: x.detach() for name, x in learned_of(spec, torch.float32).items()}
    sets = {name: torch.stack([x, x + 0.25, x + 0.5]) for name, x in learned.items()}
    scores, query = normal(1, 2, 4, 8), normal(1, 2, 4, 8)

    def softmax(numbers: dict[str, Tensor]) -> Tensor:
        return softmaxkit.softmax(scores, spec, **numbers)

    def attention(numbers: dict[str, Tensor]) -> Tensor:
        return softmaxkit.attention(query, query, query, spec, **numbers)

    def gradients(numbers: dict[str, Tensor]) -> Any:
        return grad(lambda numbers: softmax(numbers).square().sum())(numbers)

    for function in (softmax, attention):
        one_by_one = [function({name: x[number].requires_grad_() for name, x in sets.items()}) for number in range(3)]
        # Batched products are summed in another order.
        torch.testing.assert_close(vmap(function)(sets), torch.stack(one_by_one), rtol=1e-5, atol=1e-6)
    mapped = vmap(gradients)(sets)
    for number in range(3):
        own = gradients({name: x[number] for name, x in sets.items()})
        for name in sets:
            torch.testing.assert_close(mapped[name][number], own[name], rtol=1e-5, atol=1e-6)


def test_calibrated_numbers_cannot_be_mapped() -> None:
    scores, query = normal(1, 2, 4, 8), normal(1, 2, 4, 8)
    for function in (
        lambda clip: softmaxkit.softmax(scores, Exaq(), clip=clip),
        lambda clip: softmaxkit.attention(query, query, query, Exaq(), clip=clip),
        lambda scale: softmaxkit.softmax(scores, ConSmax(), beta=1.0, gamma=30.0, scale=scale),
    ):
        with pytest.raises(ValueError, match=r"vmap cannot map (clip of EXAQ|scale of ConSmax), which is calibrated"):
            vmap(function)(torch.tensor([-5.0, -4.0]))


@LEARNING
def test_integers_of_sharded_parameters_need_all_of_them(spec: Spec, mesh: Any) -> None:
    module, scores = spec.module(heads=2, mode="integer", **NUMBERS[spec]), normal(1, 2, 4, 8)
    right, before = module.constants, module(scores)
    fully_shard(module, mesh=mesh)
    with pytest.raises(RuntimeError, match="are sharded over processes, and its integers need all of them"):
        _ = module.constants
    assert torch.equal(module(scores), before)
    module.unshard()
    assert module.constants == right


@LEARNING
def test_integers_follow_the_flat_parameter_of_fsdp(spec: Spec, mesh: Any) -> None:
    module, other = (spec.module(heads=2, mode="integer", **NUMBERS[spec]) for _ in range(2))
    scores, weights = normal(1, 2, 4, 8), normal(1, 2, 4, 8) + 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one process does not shard
        wrapped = FullyShardedDataParallel(nn.Sequential(module), use_orig_params=False, device_id=torch.device("cpu"))
    assert not {name for name, _ in wrapped.named_parameters()} & {"beta", "bias"}
    module.freeze(module.constants)
    for trained in (wrapped, other):
        optimizer = torch.optim.SGD(trained.parameters(), 1.0)
        before = trained(scores)
        (before * weights).sum().backward()
        optimizer.step()
    assert torch.equal(wrapped(scores), other(scores))
    assert not torch.equal(wrapped(scores), before)
    for tensor in module.learned_tensors().values():
        tensor.untyped_storage().resize_(0)  # as FSDP does between steps of several processes
    with pytest.raises(RuntimeError, match="are sharded over processes"):
        _ = module.constants
