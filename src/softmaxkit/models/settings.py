"""The settings of a model's methods as stored in a checkpoint, and how they are restored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import softmaxkit
from softmaxkit.methods.base.fields import SCHEMA, is_schema
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.numbers import is_sharded
from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.attention import NAME
from softmaxkit.models.patch import attach, layers

WRAPPERS = r"\b(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\."
"""Components that PyTorch's wrappers add to module names, which the state dict of the whole model does not contain."""

Settings = dict[str, Any]
"""The settings of a model: "schema", "softmaxkit" (the version that wrote them) and "layers", by layer name."""


class MethodError(ValueError):
    """The settings of a checkpoint's methods are damaged, of another version, or do not fit its model."""


def settings_of(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> Settings:
    """Return the settings of all methods in a model, ready for JSON.

    Args:
        model: a model with methods.
        state: its full state dict, if available. Without it, the parameters of a model sharded over processes are
            collected from all of them, so all have to call this.

    Raises:
        ValueError: the model is sharded, and the state dict lacks parameters of a method.
    """
    settings: Settings = {"schema": SCHEMA, "softmaxkit": softmaxkit.__version__, "layers": {}}
    for name, module in layers(model).items():
        name = re.sub(WRAPPERS, "", name)
        prefix = f"{name}.{NAME}."
        own = {key.removeprefix(prefix): x for key, x in (state or {}).items() if key.startswith(prefix)}
        settings["layers"][name] = _of_layer(module, own, collect=state is None)
    plain: Settings = json.loads(json.dumps(settings))  # tuples become lists, as they are when read back
    return plain


def check_schema(settings: Mapping[str, Any], where: str) -> None:
    """Raise a MethodError for settings of another schema version."""
    if not is_schema(settings.get("schema")):
        raise MethodError(
            f'{where} has "schema": {settings.get("schema")!r}; this version of softmaxkit reads {SCHEMA}'
        )


def attach_saved(model: PreTrainedModel, saved: Mapping[str, Mapping[str, Any]]) -> dict[str, SoftmaxModule]:
    """Attach a softmax module to each saved layer of a model; the learned parameters are not loaded yet.

    Layers are looked up with and without the base model's prefix, so that the checkpoint of a GPT-2 with a head loads
    into one without, and vice versa.

    Returns:
        The modules, by their names in the settings.

    Raises:
        MethodError: the settings are damaged, or the model has no such layer.
    """
    modules = {}
    with _fitting():
        for name, settings in saved.items():
            with torch.device("cpu"):  # while transformers builds a model, new tensors go to the meta device
                module = Spec.from_json(settings["spec"]).module(heads=settings["heads"], mode=settings["mode"])
            module.set_calibration(settings["calibration"])
            attach(_layer(model, name), module)
            modules[name] = module
    return modules


def freeze_saved(modules: Mapping[str, SoftmaxModule], saved: Mapping[str, Mapping[str, Any]]) -> None:
    """Freeze modules, whose parameters have been loaded, to the constants in the settings.

    Raises:
        MethodError: the settings are damaged or do not fit the model.
    """
    with _fitting():
        for name, module in modules.items():
            module.set_calibration(saved[name]["calibration"])  # loading a state dict may have overwritten it
            if (constants := saved[name]["constants"]) is not None:
                frozen = module.spec.constants_class.from_json(constants)
                if not frozen.fits(module.build_constants()):
                    raise ValueError(f"the constants of {name} do not match the form of its spec")
                module.freeze(frozen)


@contextmanager
def _fitting() -> Iterator[None]:
    """Turn errors within into a MethodError: the settings do not fit the model."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise MethodError(f"the method in its config.json does not fit its model: {error}") from None


def _layer(model: PreTrainedModel, name: str) -> nn.Module:
    prefix = f"{model.base_model_prefix}."
    for candidate in (name, name.removeprefix(prefix), prefix + name):
        try:
            return model.get_submodule(candidate)
        except AttributeError:
            continue
    raise AttributeError(f"{type(model).__name__} has no layer {name}")


def _of_layer(module: SoftmaxModule, state: Mapping[str, Tensor], collect: bool) -> dict[str, Any]:
    whole = module
    sharded: dict[str, Any] = {name: x for name, x in module.named_parameters() if is_sharded(x)}
    if sharded and not (state or collect):
        raise ValueError(
            f"the model is sharded over processes, and the state dict lacks {', '.join(sharded)} of its methods; pass "
            "the full state dict"
        )
    if state or sharded:
        whole = module.spec.module(heads=module.heads, mode=module.mode)
        whole.set_calibration(module.calibration)
        whole.load_state_dict(state or {name: x.full_tensor() for name, x in sharded.items()})
    try:
        constants: dict[str, Any] | None = (module.frozen_for(whole.learned_tensors()) or whole.constants).to_json()
    except ValueError:  # not calibrated yet
        constants = None
    return {
        "spec": module.spec.to_json(),
        "heads": module.heads,
        "mode": module.mode,
        "calibration": dict(module.calibration),
        "constants": constants,
    }
