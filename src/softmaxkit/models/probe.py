"""Find a model's attention layers by running it, and reject models to which a method cannot be applied."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from softmaxkit.models.attention import UnsupportedError, watching
from softmaxkit.models.examples import example_hint
from softmaxkit.models.running import evaluating, run

Layers = list[tuple[nn.Module, int]]

PRECISE = (torch.float32, torch.float64)


def attention_layers(
    model: PreTrainedModel, inputs: Mapping[str, Any], switch_on: Callable[[], object], compare: bool
) -> Layers:
    """Run a model on some inputs and return its attention layers with their numbers of heads, in running order.

    Args:
        model: the model, which is left with softmaxkit's attention function.
        inputs: keyword arguments of the model.
        switch_on: makes the model call softmaxkit's attention function.
        compare: check that exact softmax through this function reproduces the model's original output.

    Raises:
        UnsupportedError: the model does not run, does not call the attention interface, or returns another output
            through it.
    """
    name = type(model).__name__
    calls: Layers = []
    own = model.config._attn_implementation
    with evaluating(model):
        try:
            before = _seeded_run(model, inputs) if compare else None
            switch_on()
            # Run exact softmax, because methods that are already in the model may not be calibrated.
            with watching(lambda module, query, *_: calls.append((module, query.shape[1])), exact=True):
                after = _seeded_run(model, inputs)
                if before is not None and _may_round_differently(own, before[0], after[0]):
                    model.set_attn_implementation("eager")
                    before = _seeded_run(model, inputs)
                    switch_on()
        except UnsupportedError:
            raise
        except Exception as error:
            raise UnsupportedError(
                f"{name} did not run on {_described(inputs)} ({type(error).__name__}: {error}); "
                f"pass inputs on which it runs with {example_hint(model)}"
            ) from error
    layers = list({id(module): (module, heads) for module, heads in calls}.values())
    if not layers:
        raise UnsupportedError(
            f"{name} ran without calling transformers' AttentionInterface, so no method can be applied to it"
        )
    if before is not None:
        with evaluating(model), watching(lambda *_: None, exact=True):
            _check_same(model, inputs, before[0], after[0])
    return layers


def _are_close(before: Any, after: Any) -> bool:
    """Return whether two outputs are equal within the tolerance of their dtype."""
    tolerance = 1e-3 if before.dtype in PRECISE else 0.1
    return bool((before - after).abs().max() <= tolerance * before.abs().max())


def _may_round_differently(implementation: str | None, before: Any, after: Any) -> bool:
    """Return whether half-precision outputs differ, perhaps only because a fused kernel rounds at fewer places."""
    is_half = isinstance(before, Tensor) and before.is_floating_point() and before.dtype not in PRECISE
    is_fused = implementation is not None and (implementation == "sdpa" or "flash" in implementation)
    return is_half and is_fused and not _are_close(before, after)


def _seeded_run(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Any:
    """Run a model with a fixed seed, as some draw random numbers in evaluation too; torch's own state is restored."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return run(model, inputs)


def _described(inputs: Mapping[str, Any]) -> str:
    """Describe inputs by their names and shapes."""
    shapes = (f"{key} {tuple(value.shape)}" if isinstance(value, Tensor) else key for key, value in inputs.items())
    return f"inputs of {', '.join(shapes) or 'nothing'}"


def left_out(model: nn.Module, layers: Layers) -> list[str]:
    """Return the names of modules named like attention that are unrelated to the layers that called the interface.

    Related modules are such a layer itself, and its submodules and ancestors.
    """
    called = {id(module) for module, _ in layers}
    related = {id(part) for module, _ in layers for part in module.modules()}
    names = []
    for name, module in model.named_modules():
        looks = re.search(r"Attention\d*$", type(module).__name__)
        if looks and id(module) not in related and not any(id(part) in called for part in module.modules()):
            names.append(name)
    return names


def _check_same(model: PreTrainedModel, inputs: Mapping[str, Any], before: Any, after: Any) -> None:
    """Compare outputs of tokens that are not padding, within the tolerance of their dtype.

    Raises:
        UnsupportedError: they differ or are not finite.
    """
    name = type(model).__name__
    if not isinstance(before, Tensor) or not before.is_floating_point():
        return
    # Eager attention's output for padding is arbitrary: such a query attends to all keys or to none.
    mask = inputs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2 and before.ndim > 2 and before.shape[:2] == mask.shape:
        attended = mask.bool().to(before.device)
        before, after = before[attended], after[attended]
    if not before.isfinite().all():
        raise UnsupportedError(
            f"{name} returns NaN or infinity even without a method, so its attention cannot be checked; repair its "
            "weights, or pass other inputs with apply(..., example={...})"
        )
    if not _are_close(before, after):
        if not torch.equal(*(_seeded_run(model, inputs)[0] for _ in range(2))):
            raise UnsupportedError(
                f"{name} is random: its outputs for the same inputs differ between runs, even with the same seed, so "
                "its attention cannot be checked"
            )
        raise UnsupportedError(
            f"{name} returns other outputs with exact softmax through transformers' AttentionInterface than before: "
            "its attention does more than scores, mask and softmax, so no method can be applied to it"
        )
