"""The name of the attention function in the configs of a model: ours, and that which it had."""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakSet

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from softmaxkit.models.attention import NAME, UnsupportedError

_ORIGINAL = "_softmaxkit_original"

_switched: WeakSet[nn.Module] = WeakSet()
"""Models that were made to call our attention function."""

Implementations = list[tuple[Any, str | None]]


def separate_configs(model: PreTrainedModel) -> None:
    """Give a model configs of its own where it shares some with another model that has a method.

    The name of the attention function is in the config: taking the method out of one model would switch it off in the
    other.
    """
    copies: dict[int, Any] = {}
    memo: dict[int, Any] = {}
    for other in list(_switched):
        if other is model or any(part is model for part in other.modules()) or any(x is other for x in model.modules()):
            continue
        originals = {id(config): name for config, name in other.__dict__.get(_ORIGINAL, [])}
        for config, _ in implementations(model):
            if id(config) in originals:
                copies[id(config)] = copy.deepcopy(config, memo)
                set_implementations([(copies[id(config)], originals[id(config)])])
    for module in model.modules() if copies else ():
        for key, value in vars(module).items():
            if id(value) in copies:
                module.__dict__[key] = copies[id(value)]


def switch_on(model: PreTrainedModel) -> Implementations:
    """Make a model call our attention function; its layers without a module then run exact softmax.

    Returns:
        What to `remember` once all has gone well.

    Raises:
        UnsupportedError: the model does not take attention functions; it is then unchanged.
    """
    original = implementations(model)
    try:
        model.set_attn_implementation(NAME)
    except (ValueError, ImportError, KeyError) as error:
        set_implementations(original)
        raise UnsupportedError(f"{type(model).__name__} refuses another attention function: {error}") from None
    if is_on(model):
        set_implementations([(config, NAME) for config in _stray_configs(model)])
    if not is_on(model):
        set_implementations(original)
        raise UnsupportedError(
            f"{type(model).__name__} does not run its attention through transformers' AttentionInterface, "
            "so no method can be put into it; use a model that does, such as GPT-2, BERT or LLaMA"
        )
    return original


def is_on(model: nn.Module) -> bool:
    """Does the model call our attention function?"""
    return any(name == NAME for _, name in implementations(model))


def remember(model: PreTrainedModel, original: Implementations) -> None:
    """Keep the attention names that a model had, for `restore`; those of an earlier change stay."""
    kept = model.__dict__.setdefault(_ORIGINAL, [])
    known = {id(config) for config, _ in kept}
    kept += [(config, name) for config, name in original if name != NAME and id(config) not in known]
    _switched.add(model)


def switch_back(model: PreTrainedModel) -> None:
    """Give a model back the attention that was remembered, where it still has ours."""
    for part in [part for part in model.modules() if _ORIGINAL in part.__dict__]:
        remembered = part.__dict__.pop(_ORIGINAL)
        set_implementations([(config, name) for config, name in remembered if _current(config) == NAME])
        _switched.discard(part)


def implementations(model: nn.Module) -> Implementations:
    """Return the attention names of all configs in a model."""
    return _named(model) + [(config, _current(config)) for config in _stray_configs(model)]


def _named(model: nn.Module) -> Implementations:
    """Return those of the configs that belong to a model, and of the configs in these."""
    configs = {id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel)}
    for config in list(configs.values()):
        for name in config.sub_configs:
            if (part := getattr(config, name, None)) is not None:
                configs[id(part)] = part
    return [(config, _current(config)) for config in configs.values()]


def _stray_configs(model: nn.Module) -> list[PreTrainedConfig]:
    """Return configs that layers hold and no model has, which transformers passes over: ViTMAE's decoder has one."""
    known = {id(config) for config, _ in _named(model)}
    held = (vars(module).get("config") for module in model.modules())
    strays = {id(config): config for config in held if isinstance(config, PreTrainedConfig) and id(config) not in known}
    return list(strays.values())


def _current(config: Any) -> str | None:
    name: str | None = config._attn_implementation_internal
    return name


def set_implementations(names: Implementations) -> None:
    """Set the attention names of configs."""
    for config, name in names:
        config._attn_implementation_internal = name
