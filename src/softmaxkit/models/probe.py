"""Find a model's attention layers by running it, and reject models to which a method cannot be applied."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from softmaxkit.models.attention import UnsupportedError, watching
from softmaxkit.models.examples import example_hint
from softmaxkit.models.running import evaluating, run

Layers = list[tuple[nn.Module, int]]

PRECISE = {torch.float32, torch.float64}
PRECISE_TOLERANCE, HALF_TOLERANCE = 1e-3, 0.1
"""Allowed differences of outputs, relative to the largest, of models with precise numbers only, and of others."""


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
            through it, or is set to paged attention.
    """
    name, own = type(model).__name__, model.config._attn_implementation
    if own is not None and own.startswith("paged|"):
        raise UnsupportedError(
            f"{name} is set to {own!r} attention, which runs in continuous batching alone; first call "
            f"model.set_attn_implementation({own.removeprefix('paged|')!r})"
        )
    calls: Layers = []
    # Not the output's dtype: many models return float32 logits whatever the precision of their layers.
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}

    def see(module: nn.Module, query: Tensor, *_: Any) -> None:
        calls.append((module, query.shape[1]))
        dtypes.add(query.dtype)

    with evaluating(model):
        try:
            before = _seeded_run(model, inputs) if compare else None
            switch_on()
            # Run exact softmax, because methods that are already in the model may not be calibrated.
            with watching(see, exact=True):
                after = _seeded_run(model, inputs)
                is_precise = dtypes <= PRECISE
                if not is_precise and _may_round_differently(own, before, after):
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
    if compare:
        with evaluating(model), watching(lambda *_: None, exact=True):
            _check_same(model, inputs, before, after, PRECISE_TOLERANCE if is_precise else HALF_TOLERANCE)
    return layers


def _are_close(before: Tensor, after: Tensor, tolerance: float) -> bool:
    """Return whether two outputs are equal within a tolerance, relative to the largest."""
    return before.shape == after.shape and bool((before - after).abs().max() <= tolerance * before.abs().max())


def _may_round_differently(implementation: str | None, before: Tensor | None, after: Tensor | None) -> bool:
    """Return whether half-precision outputs differ, perhaps only because a fused kernel rounds at fewer places."""
    is_fused = implementation is not None and (implementation == "sdpa" or "flash" in implementation)
    if before is None or after is None or not is_fused:
        return False
    return not _are_close(before, after, HALF_TOLERANCE)


def _seeded_run(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor | None:
    """Run a model with a fixed seed, as some draw random numbers in evaluation too; torch's own state is restored.

    Returns:
        Its first output of floating-point numbers, which backbones nest in a tuple; None if it has none.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        outputs = tree_leaves(run(model, inputs))
    return next((x for x in outputs if isinstance(x, Tensor) and x.is_floating_point()), None)


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


def _check_same(
    model: PreTrainedModel, inputs: Mapping[str, Any], before: Tensor | None, after: Tensor | None, tolerance: float
) -> None:
    """Compare outputs of tokens that are not padding.

    Raises:
        UnsupportedError: they differ, are not finite, or are no floating-point numbers.
    """
    name = type(model).__name__
    if before is None or after is None:
        raise UnsupportedError(
            f"{name} returns no tensor of floating-point numbers, so its attention cannot be checked; apply the method "
            "to the model inside, or make forward return one, such as logits"
        )
    # Eager attention's output for padding is arbitrary: such a query attends to all keys or to none.
    mask = inputs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2 and before.ndim > 2 and before.shape[:2] == mask.shape:
        attended = mask.bool().to(before.device)
        before, after = before[attended], after[attended]
    if before.is_meta:
        raise UnsupportedError(f"{name} has no weights yet, being on the meta device; load them before apply")
    if not before.isfinite().all():
        raise UnsupportedError(
            f"{name} returns NaN or infinity even without a method, so its attention cannot be checked; repair its "
            "weights, or pass other inputs with apply(..., example={...})"
        )
    if not _are_close(before, after, tolerance):
        first, second = (_seeded_run(model, inputs) for _ in range(2))
        if first is None or second is None or not torch.equal(first, second):
            raise UnsupportedError(
                f"{name} is random: its outputs for the same inputs differ between runs, even with the same seed, so "
                "its attention cannot be checked"
            )
        raise UnsupportedError(
            f"{name} returns other outputs with exact softmax through transformers' AttentionInterface than before: "
            "its attention does more than scores, mask and softmax, so no method can be applied to it"
        )
