"""Methods into a Hugging Face model, and out again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.spec import Spec, check_spec
from softmaxkit.models.attention import NAME, UnsupportedError, method_of
from softmaxkit.models.examples import example_of, positions, remember_example
from softmaxkit.models.layer_choice import chosen_layers, layer_names, wanted_layers
from softmaxkit.models.probe import attention_layers, left_out
from softmaxkit.models.running import device_of, warn_again
from softmaxkit.models.switching import (
    implementations,
    is_on,
    remember,
    separate_configs,
    set_implementations,
    switch_back,
    switch_on,
)


def apply(
    model: PreTrainedModel,
    spec: Spec,
    layers: int | str | Iterable[int | str] | None = None,
    mode: str = "float",
    example: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> PreTrainedModel:
    """Put a method into the attention layers of a model, in place.

    The layers are found by running the model on a tiny input: those that call the attention interface. That run also
    checks that exact softmax through the interface gives what the model gave before. A method's learned parameters
    become parameters of the model, under the name `softmaxkit` in each attention layer.

    Args:
        model: any transformers model on the attention interface.
        spec: the method.
        layers: which layers: numbers, in the order in which the model runs them, or names, as `softmaxkit.layers` has
            them; all if left out. Layers that are left out keep what they have: another method, or exact softmax.
        mode: "float", "integer" or "fused".
        example: inputs for the tiny run, where those that are made up do not make the whole model run. They are
            remembered for later calls with the same model.
        parameters: what the method's module takes, as `beta` and `gamma` for ConSmax or `clip` for EXAQ.

    Returns:
        The same model.

    Raises:
        TypeError: not a transformers model, layers that are neither numbers nor names, or a parameter that the method
            does not have.
        ValueError: the model, or a part of it, does not run its attention through the interface (`UnsupportedError`),
            or there is no such layer. The model is then unchanged.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"apply takes a transformers model, not {type(model).__name__}; of a wrapped one, apply to the model "
            "inside (of PEFT's, model.get_base_model()), and for your own attention use spec.module(heads=...) in "
            "place of softmax"
        )
    check_spec(spec)
    wanted = wanted_layers(layers)
    separate_configs(model)
    original = implementations(model)
    already = bool(_layers(model))
    try:
        switch_on(model)  # a model that cannot take it says so before it runs
        set_implementations(original)
        inputs = example_of(model) if example is None else example
        candidates = attention_layers(model, inputs, lambda: switch_on(model), compare=not already)
        if wanted is None and (missed := left_out(model, candidates)):
            more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
            raise UnsupportedError(
                f"{missed[0]}{more} of {type(model).__name__} did not call the attention interface on a tiny input; "
                f"give inputs that run all of it, with example={{...}}, or choose among the {len(candidates)} layers "
                f"that did, with layers=range({len(candidates)})"
            )
        chosen = chosen_layers(wanted, layer_names(model, candidates))
        keys = positions(model) or 256
        modules = {
            index: spec.module(heads=candidates[index][1], mode=mode, **{**spec.start(keys), **parameters})
            for index in chosen
        }
    except BaseException:
        set_implementations(original)
        raise
    for index, module in modules.items():
        attach(candidates[index][0], module)
    remember(model, original)
    if example is not None:
        remember_example(model, example)
    warn_again()
    return model


def attach(attention: nn.Module, module: SoftmaxModule) -> None:
    """Make a softmax module part of an attention layer, on its device and in its training state."""
    attention.add_module(NAME, module.to(device_of(attention)).train(attention.training))


def respecify(model: PreTrainedModel, spec: Spec) -> PreTrainedModel:
    """Give the layers of a model another spec of the method that is in them, in place: what they learned stays.

    Their calibration does not: it is of the spec that they had.
    """
    for name, module in layers(model).items():
        successor = spec.module(heads=module.heads, mode=module.mode)
        with torch.no_grad():
            for new, learned in zip(successor.parameters(), module.parameters(), strict=True):
                new.copy_(learned)
        attach(model.get_submodule(name), successor)
    return model


def restore(model: PreTrainedModel) -> PreTrainedModel:
    """Take every method out of a model and give it back the attention that it had; no effect on an unchanged one."""
    for attention in [module for module in model.modules() if NAME in module._modules]:
        delattr(attention, NAME)
    switch_back(model)
    return model


def layers(model: nn.Module) -> dict[str, SoftmaxModule]:
    """Return the softmax modules in a model, by the name of their attention layer.

    Wrappers are seen through: of the copies that PEFT makes with `modules_to_save`, it is the one that runs.
    """
    modules = ((name, method_of(module)) for name, module in model.named_modules() if NAME in module._modules)
    return {name: module for name, module in modules if module is not None}


_layers = layers  # `apply` has an argument of this name


def active_layers(model: nn.Module) -> dict[str, SoftmaxModule]:
    """Return the softmax modules of a model that runs them.

    Raises:
        ValueError: there are none, or another attention function was set since.
    """
    modules = layers(model)
    if not modules:
        raise ValueError("no method is in this model; put one in with softmaxkit.apply(model, spec)")
    if not is_on(model):
        raise ValueError(
            "this model was given another attention function since, so its methods do not run; "
            f"call model.set_attn_implementation({NAME!r})"
        )
    return modules


def set_mode(model: nn.Module, mode: str) -> None:
    """Set every softmax module of a model to "float", "integer" or "fused".

    "fused" is for inference on the CPU: EXAQ and ConSmax through `softmaxkit.attention`, with 8-bit products, wherever
    nothing needs the probabilities; else, and for the other methods, it is "float", with one warning that says why.
    `softmaxkit.models.fused_layers` tells it layer by layer.

    Raises:
        ValueError: no such mode, or the model has no method in it.
    """
    active_layers(model)
    for attention in model.modules():
        copies = attention._modules[NAME].modules() if NAME in attention._modules else ()  # type: ignore[union-attr]
        for module in copies:
            if isinstance(module, SoftmaxModule):
                module.mode = mode
    warn_again()
