"""Switch a model's configs between softmaxkit's attention function and the one that they had before."""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from softmaxkit.models.attention import NAME, UnsupportedError
from softmaxkit.models.running import warn_once

_ORIGINAL = "_softmaxkit_original"

_switched: WeakSet[nn.Module] = WeakSet()
"""Models that were switched to softmaxkit's attention function."""

Implementations = list[tuple[Any, str | None]]


class _Remembered:
    """The implementations that the configs of a switched model had before.

    Copying or unpickling a model runs no code of ours but the copying of this attribute, which therefore registers the
    copy as switched.
    """

    def __init__(self, implementations: Implementations, *models: nn.Module) -> None:
        self.implementations = implementations
        self._models = WeakSet(models)
        _switched.update(models)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.implementations, *self._models)


def separate_configs(model: PreTrainedModel) -> None:
    """Give a model its own copies of configs that it shares with another model that has a method.

    The config names the attention function, so removing the method from one model would switch it off in the other.
    """
    copies: dict[int, Any] = {}
    memo: dict[int, Any] = {}
    for other in [other for other in _switched if _ORIGINAL in other.__dict__]:  # not those still being copied
        if other is model or any(part is model for part in other.modules()) or any(x is other for x in model.modules()):
            continue
        originals = {id(config): name for config, name in other.__dict__[_ORIGINAL].implementations}
        for config, _ in implementations(model):
            if id(config) in originals:
                copies[id(config)] = copy.deepcopy(config, memo)
                set_implementations([(copies[id(config)], originals[id(config)])])
    for module in model.modules() if copies else ():
        for key, value in vars(module).items():
            if id(value) in copies:
                module.__dict__[key] = copies[id(value)]


def switch_on(model: PreTrainedModel) -> Implementations:
    """Make a model call softmaxkit's attention function; its layers without a module then run exact softmax.

    Returns:
        The previous implementations, to be passed to `remember` if the rest succeeds.

    Raises:
        UnsupportedError: the model does not accept attention functions; it is then unchanged.
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
            "so no method can be applied to it; use a model that does, such as GPT-2, BERT or LLaMA"
        )
    return original


def is_on(model: nn.Module) -> bool:
    """Return whether a model calls softmaxkit's attention function."""
    return any(name == NAME for _, name in implementations(model))


def remember(model: PreTrainedModel, original: Implementations) -> None:
    """Remember a model's previous implementations for `restore`, unless an earlier change already did."""
    if _ORIGINAL not in model.__dict__:
        model.__dict__[_ORIGINAL] = _Remembered([], model)
        model.register_forward_pre_hook(_warn_if_off)
    remembered = model.__dict__[_ORIGINAL].implementations
    known = {id(config) for config, _ in remembered}
    remembered += [(config, name) for config, name in original if name != NAME and id(config) not in known]


def switch_back(model: PreTrainedModel) -> None:
    """Restore the remembered implementations of the configs that still name softmaxkit's attention function."""
    for part in [part for part in model.modules() if _ORIGINAL in part.__dict__]:
        remembered = part.__dict__.pop(_ORIGINAL).implementations
        for key in [key for key, hook in part._forward_pre_hooks.items() if hook is _warn_if_off]:
            del part._forward_pre_hooks[key]
        set_implementations([(config, name) for config, name in remembered if _current(config) == NAME])
        _switched.discard(part)


def _warn_if_off(model: nn.Module, inputs: Any) -> None:
    """Warn, once, if a model with methods runs another attention function: some calls of transformers switch it."""
    if torch.compiler.is_compiling():
        return
    configs = [config for config, _ in model.__dict__[_ORIGINAL].implementations]
    if NAME not in map(_current, configs) and not is_on(model):
        now = implementations(model)[0][1]
        warn_once(
            f"{type(model).__name__} runs {now!r} attention and not the methods in it: after softmaxkit.apply, "
            "set_attn_implementation was called, or transformers switched, as Whisper's generate does for token "
            f"timestamps. model.set_attn_implementation({NAME!r}) switches the methods on, softmaxkit.restore(model) "
            "removes them"
        )


def implementations(model: nn.Module) -> Implementations:
    """Return all configs in a model, with the attention implementation that each one names."""
    return _named(model) + [(config, _current(config)) for config in _stray_configs(model)]


def _named(model: nn.Module) -> Implementations:
    """Return the configs of a model and its submodels, and their nested sub-configs, with their implementations."""
    configs: dict[int, Any] = {}
    queue: list[Any] = [part.config for part in model.modules() if isinstance(part, PreTrainedModel)]
    while queue:
        config = queue.pop(0)
        if config is not None and id(config) not in configs:
            configs[id(config)] = config
            queue += [getattr(config, name, None) for name in config.sub_configs]
    return [(config, _current(config)) for config in configs.values()]


def _stray_configs(model: nn.Module) -> list[PreTrainedConfig]:
    """Return the configs of layers that belong to no model, which transformers does not update, as in ViTMAE."""
    known = {id(config) for config, _ in _named(model)}
    configs = {id(config): config for module in model.modules() if (config := vars(module).get("config")) is not None}
    return [config for key, config in configs.items() if isinstance(config, PreTrainedConfig) and key not in known]


def _current(config: Any) -> str | None:
    name: str | None = config._attn_implementation_internal
    return name


def set_implementations(names: Implementations) -> None:
    """Set the attention implementation that each config names."""
    for config, name in names:
        config._attn_implementation_internal = name
