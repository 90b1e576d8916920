"""Methods into a Hugging Face model, and out again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.models.attention import NAME, UnsupportedError
from softmaxkit.models.probe import attention_layers, left_out
from softmaxkit.models.running import device_of
from softmaxkit.methods.base.spec import Spec, check_spec

_ORIGINAL = "_softmaxkit_original"

Implementations = list[tuple[Any, str | None]]


def apply(
    model: PreTrainedModel,
    spec: Spec,
    layers: int | Iterable[int] | None = None,
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
        layers: which layers, counted in the order in which the model runs them; all if left out. Layers that are left
            out keep what they have: another method, or exact softmax.
        mode: "float" or "integer".
        example: inputs for the tiny run, where token ids alone do not make the whole model run.
        parameters: what the method's module takes, as `beta` and `gamma` for ConSmax or `clip` for EXAQ.

    Returns:
        The same model.

    Raises:
        TypeError: not a transformers model, or a parameter that the method does not have.
        ValueError: the model, or a part of it, does not run its attention through the interface (`UnsupportedError`),
            or there is no such layer. The model is then unchanged.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"apply takes a transformers model, not {type(model).__name__}; of a wrapped one, apply to the model "
            "inside, and for your own attention use spec.module(heads=...) in place of softmax"
        )
    check_spec(spec)
    layers = [layers] if isinstance(layers, int) else layers
    original = _implementations(model)
    already = bool(_layers(model))
    try:
        found = attention_layers(model, example, lambda: switch_on(model), compare=not already)
        if layers is None and (missed := left_out(model, found)):
            more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
            raise UnsupportedError(
                f"{missed[0]}{more} of {type(model).__name__} did not call the attention interface on a tiny input; "
                f"give inputs that run all of it, with example={{...}}, or choose among the {len(found)} layers that "
                f"did, with layers=range({len(found)})"
            )
        chosen = list(range(len(found))) if layers is None else sorted(set(layers))
        if wrong := [index for index in chosen if not 0 <= index < len(found)]:
            raise ValueError(f"no layer {wrong[0]}: the model has {len(found)} attention layers, 0 to {len(found) - 1}")
        keys = int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 256)
        modules = {
            index: spec.module(heads=found[index][1], mode=mode, **{**spec.start(keys), **parameters})
            for index in chosen
        }
    except BaseException:
        _set_implementations(original)
        raise
    for index, module in modules.items():
        hang(found[index][0], module)
    remember(model, original)
    return model


def hang(attention: nn.Module, module: SoftmaxModule) -> None:
    """Make a softmax module part of an attention layer, on its device and in its training state."""
    attention.add_module(NAME, module.to(device_of(attention)).train(attention.training))


def switch_on(model: PreTrainedModel) -> Implementations:
    """Make a model call our attention function; its layers without a module then run exact softmax.

    Returns:
        What to `remember` once all has gone well.

    Raises:
        UnsupportedError: the model does not take attention functions; it is then unchanged.
    """
    original = _implementations(model)
    try:
        model.set_attn_implementation(NAME)
    except (ValueError, ImportError, KeyError) as error:
        _set_implementations(original)
        raise UnsupportedError(f"{type(model).__name__} refuses another attention function: {error}") from None
    if not is_on(model):
        _set_implementations(original)
        raise UnsupportedError(
            f"{type(model).__name__} does not run its attention through transformers' AttentionInterface, "
            "so no method can be put into it; use a model that does, such as GPT-2, BERT or LLaMA"
        )
    return original


def is_on(model: nn.Module) -> bool:
    """Does the model call our attention function?"""
    return any(name == NAME for _, name in _implementations(model))


def restore(model: PreTrainedModel) -> PreTrainedModel:
    """Take every method out of a model and give it back the attention that it had; no effect on an unchanged one."""
    for attention in [module for module in model.modules() if NAME in module._modules]:
        delattr(attention, NAME)
    for part in [part for part in model.modules() if _ORIGINAL in part.__dict__]:
        remembered = part.__dict__.pop(_ORIGINAL)
        _set_implementations([(config, name) for config, name in remembered if _current(config) == NAME])
    return model


def remember(model: PreTrainedModel, original: Implementations) -> None:
    """Keep the attention names that a model had, for `restore`; those of an earlier change stay."""
    kept = model.__dict__.setdefault(_ORIGINAL, [])
    known = {id(config) for config, _ in kept}
    kept += [(config, name) for config, name in original if name != NAME and id(config) not in known]


def layers(model: nn.Module) -> dict[str, SoftmaxModule]:
    """Return the softmax modules in a model, by the name of their attention layer."""
    suffix = f".{NAME}"
    return {
        name.removesuffix(suffix): module
        for name, module in model.named_modules()
        if name.endswith(suffix) and isinstance(module, SoftmaxModule)
    }


_layers = layers  # `apply` has an argument of this name


def active_layers(model: nn.Module) -> dict[str, SoftmaxModule]:
    """Return the softmax modules of a model that runs them.

    Raises:
        ValueError: there are none, or another attention function was set since.
    """
    found = layers(model)
    if not found:
        raise ValueError("no method is in this model; put one in with softmaxkit.apply(model, spec)")
    if not is_on(model):
        raise ValueError(
            "this model was given another attention function since, so its methods do not run; "
            f"call model.set_attn_implementation({NAME!r})"
        )
    return found


def set_mode(model: nn.Module, mode: str) -> None:
    """Set every softmax module of a model to "float", "integer" or "fused".

    "fused" is for inference on the CPU: EXAQ and ConSmax through `softmaxkit.attention`, with 8-bit products, wherever
    nothing needs the probabilities; else, and for the other methods, it is "float".

    Raises:
        ValueError: no such mode, or the model has no method in it.
    """
    for module in active_layers(model).values():
        module.mode = mode


def _implementations(model: nn.Module) -> Implementations:
    """Return the attention names of all configs in a model."""
    configs = {id(each.config): each.config for each in model.modules() if isinstance(each, PreTrainedModel)}
    for config in list(configs.values()):
        for name in config.sub_configs:
            if (part := getattr(config, name, None)) is not None:
                configs[id(part)] = part
    return [(config, _current(config)) for config in configs.values()]


def _current(config: Any) -> str | None:
    name: str | None = config._attn_implementation_internal
    return name


def _set_implementations(implementations: Implementations) -> None:
    for config, name in implementations:
        config._attn_implementation_internal = name
