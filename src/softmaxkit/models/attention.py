"""Methods into a Hugging Face model through its attention interface, and out again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from softmaxkit.methods.module import SoftmaxModule, attended_keys, masked_softmax
from softmaxkit.spec import Spec

NAME = "softmaxkit"
"""Name of the attention function, of the mask function, and of the submodule hung on attention layers."""

_probed: list[tuple[nn.Module, int]] | None = None


def apply(
    model: PreTrainedModel,
    spec: Spec,
    layers: Iterable[int] | None = None,
    mode: str = "float",
    example: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> PreTrainedModel:
    """Put a method into the attention layers of a model, in place.

    The layers are found by running the model once on a tiny input: those that call the attention interface. A method's
    learned parameters become parameters of the model, under the name `softmaxkit` in each attention layer.

    Args:
        model: any transformers model on the attention interface.
        spec: the method.
        layers: which layers, counted in the order in which the model runs them; all if left out. Layers that are left
            out keep what they have: another method, or exact softmax.
        mode: "float" or "integer".
        example: inputs for the tiny run, where token ids alone do not make the model run.
        parameters: what the method's module takes, as `beta` and `gamma` for ConSmax or `clip` for EXAQ.

    Returns:
        The same model.

    Raises:
        TypeError: not a transformers model, or a parameter that the method does not have.
        ValueError: the model does not run its attention through the interface, or there is no such layer.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"apply takes a transformers model, not {type(model).__name__}; for your own attention use "
            "spec.module(heads=...) in place of softmax"
        )
    original = _implementations(model)
    try:
        found = _attention_layers(model, example)
        chosen = list(range(len(found))) if layers is None else sorted(set(layers))
        if wrong := [index for index in chosen if not 0 <= index < len(found)]:
            raise ValueError(f"no layer {wrong[0]}: the model has {len(found)} attention layers, 0 to {len(found) - 1}")
        keys = _longest_row(model)
        modules = {
            index: spec.module(heads=found[index][1], mode=mode, **{**spec.start(keys), **parameters})
            for index in chosen
        }
    except BaseException:
        _set_implementations(original)
        raise
    for index, module in modules.items():
        hang(found[index][0], module)
    _remember(model, original)
    return model


def hang(attention: nn.Module, module: SoftmaxModule) -> None:
    """Make a softmax module part of an attention layer, on its device and in its training state."""
    parameter = next(attention.parameters(), None)
    attention.add_module(NAME, module.to(parameter.device if parameter is not None else None).train(attention.training))


def switch_on(model: PreTrainedModel) -> None:
    """Make a model call our attention function; its layers without a module then run exact softmax.

    Raises:
        ValueError: the model does not take attention functions.
    """
    original = _implementations(model)
    try:
        model.set_attn_implementation(NAME)
    except (ValueError, ImportError, KeyError) as error:
        _set_implementations(original)
        raise ValueError(f"{type(model).__name__} refuses another attention function: {error}") from None
    if model.config._attn_implementation != NAME:
        _set_implementations(original)
        raise ValueError(
            f"{type(model).__name__} does not run its attention through transformers' AttentionInterface, "
            "so no method can be put into it; use a model that does, such as GPT-2, BERT or LLaMA"
        )
    _remember(model, original)


def restore(model: PreTrainedModel) -> PreTrainedModel:
    """Take every method out of a model and give it back the attention that it had; no effect on an unchanged one."""
    for attention in [module for module in model.modules() if NAME in module._modules]:
        delattr(attention, NAME)
    if original := model.__dict__.pop("_softmaxkit_original", None):
        _set_implementations(original)
    return model


def layers(model: nn.Module) -> dict[str, SoftmaxModule]:
    """Return the softmax modules in a model, by the name of their attention layer."""
    suffix = f".{NAME}"
    return {
        name.removesuffix(suffix): module
        for name, module in model.named_modules()
        if name.endswith(suffix) and isinstance(module, SoftmaxModule)
    }


def set_mode(model: nn.Module, mode: str) -> None:
    """Set every softmax module of a model to "float" or "integer".

    Raises:
        ValueError: no such mode, or the model has no method in it.
    """
    found = layers(model)
    if not found:
        raise ValueError("no method is in this model; put one in with softmaxkit.apply(model, spec)")
    for module in found.values():
        module.mode = mode


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Compute attention with the layer's own softmax; an attention function as transformers calls it.

    Args:
        module: the attention layer; its `softmaxkit` submodule normalises, or exact softmax where it has none.
        query: (batch, heads, queries, channels).
        key: (batch, key heads, keys, channels), expanded by `module.num_key_value_groups`.
        value: (batch, key heads, keys, channels), likewise.
        attention_mask: boolean (True attends) or additive, broadcasts to (batch, heads, queries, keys); or None.
        scaling: factor of the scores; 1/sqrt(channels) if None.
        dropout: probability, while the layer trains.
        softcap: scores become `softcap * tanh(scores / softcap)`.
        position_bias: added to the scores.
        is_causal: with no mask, attend to no later key.
        kwargs: what else a model passes along; attention sinks and paged caches are refused.

    Returns:
        The output, (batch, queries, heads, channels), and the probabilities, (batch, heads, queries, keys).

    Raises:
        ValueError: the model asks for attention sinks or a paged cache.
    """
    for name, what in (("s_aux", "attention sinks"), ("cache", "a paged cache")):
        if kwargs.get(name) is not None:
            raise ValueError(f"{type(module).__name__} asks for {what}, which no method of softmaxkit has")
    if _probed is not None:
        _probed.append((module, query.shape[1]))
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = torch.matmul(query, key.transpose(2, 3)) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if position_bias is not None:
        scores = scores + position_bias
    mask = attention_mask
    if mask is not None and mask.dtype != torch.bool:
        scores, mask = scores + mask, mask > torch.finfo(mask.dtype).min / 2
    if mask is None and is_causal and query.shape[2] > 1:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    softmax = module._modules.get(NAME)
    if softmax is not None:
        probabilities = softmax(scores, mask)
    else:
        probabilities = masked_softmax(scores.float(), attended_keys(scores, mask))
    probabilities = nn.functional.dropout(probabilities.to(value.dtype), dropout, training=module.training)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities


def boolean_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """Make the boolean mask of `sdpa_mask`, always whole: it may not leave causality to the attention function."""
    made: Tensor | None = sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})
    return made


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, boolean_mask)


def _attention_layers(model: PreTrainedModel, example: Mapping[str, Any] | None) -> list[tuple[nn.Module, int]]:
    """Run the model once and return its attention layers with their number of heads, in running order."""
    inputs = _tiny_inputs(model) if example is None else example
    switch_on(model)
    with _probing() as found, _evaluating(model), torch.no_grad():
        try:
            model(
                **{name: each.to(model.device) if isinstance(each, Tensor) else each for name, each in inputs.items()}
            )
        except Exception as error:
            raise ValueError(
                f"{type(model).__name__} did not run on a tiny input ({type(error).__name__}: {error}); "
                "give it inputs that it runs on, with apply(..., example={'input_ids': ...})"
            ) from error
    unique = list({id(module): (module, heads) for module, heads in found}.values())
    if not unique:
        raise ValueError(
            f"{type(model).__name__} ran without calling transformers' AttentionInterface, so no method "
            "can be put into it"
        )
    return unique


def _tiny_inputs(model: PreTrainedModel) -> dict[str, Any]:
    config = model.config.get_text_config()
    tokens = torch.zeros((1, 4), dtype=torch.long)
    if model.main_input_name == "input_ids":
        return {"input_ids": tokens} | ({"decoder_input_ids": tokens} if config.is_encoder_decoder else {})
    size = getattr(config, "image_size", None)
    if model.main_input_name == "pixel_values" and size is not None:
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return {"pixel_values": torch.zeros((1, config.num_channels, height, width), dtype=model.dtype)}
    return dict(model.dummy_inputs)


@contextmanager
def _probing() -> Iterator[list[tuple[nn.Module, int]]]:
    global _probed
    found: list[tuple[nn.Module, int]] = []
    _probed = found
    try:
        yield found
    finally:
        _probed = None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, state in training.items():
            module.training = state


def _longest_row(model: PreTrainedModel) -> int:
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 256)


def _implementations(model: PreTrainedModel) -> list[tuple[Any, str | None]]:
    """Return the attention names of all configs in a model."""
    configs = {id(each.config): each.config for each in model.modules() if isinstance(each, PreTrainedModel)}
    for config in list(configs.values()):
        for name in config.sub_configs:
            if (part := getattr(config, name, None)) is not None:
                configs[id(part)] = part
    return [(config, config._attn_implementation_internal) for config in configs.values()]


def _set_implementations(implementations: list[tuple[Any, str | None]]) -> None:
    for config, name in implementations:
        config._attn_implementation_internal = name


def _remember(model: PreTrainedModel, original: list[tuple[Any, str | None]]) -> None:
    if all(name != NAME for _, name in original):
        model.__dict__["_softmaxkit_original"] = original
