"""Finding a model's attention layers by running it, and refusing models that a method cannot be put into."""

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
    """Run a model on some inputs and return its attention layers with their number of heads, in running order.

    Args:
        model: the model; it is left with our attention function.
        inputs: what to run on.
        switch_on: makes the model call our attention function.
        compare: check that exact softmax through our function gives what the model gave before.

    Raises:
        UnsupportedError: the model does not run, does not call the interface, or gives something else through it.
    """
    name = type(model).__name__
    calls: Layers = []
    own = model.config._attn_implementation
    with evaluating(model):
        try:
            before = _seeded_run(model, inputs) if compare else None
            switch_on()
            # Methods that are there already may still need calibration.
            with watching(lambda module, query, *_: calls.append((module, query.shape[1])), exact=True):
                after = _seeded_run(model, inputs)
                if before is not None and _may_round_otherwise(own, before[0], after[0]):
                    model.set_attn_implementation("eager")
                    before = _seeded_run(model, inputs)
                    switch_on()
        except UnsupportedError:
            raise
        except Exception as error:
            raise UnsupportedError(
                f"{name} did not run on {_described(inputs)} ({type(error).__name__}: {error}); "
                f"give it inputs that it runs on, with {example_hint(model)}"
            ) from error
    layers = list({id(module): (module, heads) for module, heads in calls}.values())
    if not layers:
        raise UnsupportedError(
            f"{name} ran without calling transformers' AttentionInterface, so no method can be put into it"
        )
    if before is not None:
        with evaluating(model), watching(lambda *_: None, exact=True):
            _check_same(model, inputs, before[0], after[0])
    return layers


def _are_close(before: Any, after: Any) -> bool:
    """Are outputs the same, as far as their precision goes?"""
    tolerance = 1e-3 if before.dtype in PRECISE else 0.1
    return bool((before - after).abs().max() <= tolerance * before.abs().max())


def _may_round_otherwise(implementation: str | None, before: Any, after: Any) -> bool:
    """Do outputs in half precision differ where one kernel did the attention, which rounds at fewer places?"""
    in_half = isinstance(before, Tensor) and before.is_floating_point() and before.dtype not in PRECISE
    in_one = implementation is not None and (implementation == "sdpa" or "flash" in implementation)
    return in_half and in_one and not _are_close(before, after)


def _seeded_run(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Any:
    """Run a model from a fixed seed, since some draw random numbers in evaluation too; torch's own state is kept."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return run(model, inputs)


def _described(inputs: Mapping[str, Any]) -> str:
    """Say what inputs were tried."""
    shapes = (f"{key} {tuple(value.shape)}" if isinstance(value, Tensor) else key for key, value in inputs.items())
    return f"inputs of {', '.join(shapes) or 'nothing'}"


def left_out(model: nn.Module, layers: Layers) -> list[str]:
    """Return the names of modules that look like attention but neither called nor hold or belong to one that did."""
    called = {id(module) for module, _ in layers}
    related = {id(part) for module, _ in layers for part in module.modules()}
    names = []
    for name, module in model.named_modules():
        looks = re.search(r"Attention\d*$", type(module).__name__)
        if looks and id(module) not in related and not any(id(part) in called for part in module.modules()):
            names.append(name)
    return names


def _check_same(model: PreTrainedModel, inputs: Mapping[str, Any], before: Any, after: Any) -> None:
    """Compare outputs, as far as their precision goes and where a token was attended.

    Raises:
        UnsupportedError: they differ, or are not finite.
    """
    name = type(model).__name__
    if not isinstance(before, Tensor) or not before.is_floating_point():
        return
    # What eager attention gives for padding is anything: there it attends to all keys, or to none.
    mask = inputs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2 and before.ndim > 2 and before.shape[:2] == mask.shape:
        attended = mask.bool().to(before.device)
        before, after = before[attended], after[attended]
    if not before.isfinite().all():
        raise UnsupportedError(
            f"{name} gives NaN or infinity as it is, without a method, so it cannot be checked that one fits into it; "
            "mend its weights, or give other inputs with apply(..., example={...})"
        )
    if not _are_close(before, after):
        if not torch.equal(*(_seeded_run(model, inputs)[0] for _ in range(2))):
            raise UnsupportedError(
                f"{name} is random: it gives other outputs each time that it runs on the same inputs, even from one "
                "seed, so it cannot be checked that a method fits into it"
            )
        raise UnsupportedError(
            f"{name} gives other outputs through transformers' AttentionInterface with exact softmax than before: its "
            "attention is more than scores, mask and softmax, so no method can be put into it"
        )
