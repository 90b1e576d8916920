"""What a checkpoint says of the methods in its model, and how they are put back."""

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
from softmaxkit.methods.base.fields import SCHEMA
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.attention import NAME
from softmaxkit.models.patch import attach, layers

WRAPPERS = r"\b(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\."
"""Parts of names that PyTorch's wrappers add and that no state dict of a whole model has."""

Settings = dict[str, Any]
"""Of a model, with the keys "schema", "softmaxkit" (the version that wrote it) and "layers", by the layers' names."""


class MethodError(ValueError):
    """What a checkpoint says of its methods is damaged, of another version, or does not fit its model."""


def settings_of(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> Settings:
    """Return the settings of all methods in a model, ready for JSON.

    Args:
        model: with methods.
        state: its state dict where that is at hand: of a model that is sharded over processes, it alone is whole.
    """
    settings: Settings = {"schema": SCHEMA, "softmaxkit": softmaxkit.__version__, "layers": {}}
    for name, module in layers(model).items():
        name = re.sub(WRAPPERS, "", name)
        prefix = f"{name}.{NAME}."
        own = {key.removeprefix(prefix): x for key, x in (state or {}).items() if key.startswith(prefix)}
        settings["layers"][name] = _of_layer(module, own)
    plain: Settings = json.loads(json.dumps(settings))  # lists in place of tuples, as they are read back
    return plain


def check_schema(settings: Mapping[str, Any], where: str) -> None:
    """Refuse settings of another version, with a MethodError."""
    if settings.get("schema") != SCHEMA:
        raise MethodError(
            f'{where} has "schema": {settings.get("schema")!r}; this version of softmaxkit reads {SCHEMA}'
        )


def attach_saved(model: PreTrainedModel, saved: Mapping[str, Mapping[str, Any]]) -> dict[str, SoftmaxModule]:
    """Put modules into a model by the settings of its layers; their learned parameters are still those of a start.

    A model's layers are found with and without its base model's prefix, so that the checkpoint of a GPT-2 with a head
    goes into one without.

    Returns:
        the modules, by the names in the settings.

    Raises:
        MethodError: the settings are damaged, or the model has no such layer.
    """
    modules = {}
    with _fitting():
        for name, settings in saved.items():
            with torch.device("cpu"):  # while transformers builds a model, new tensors would be on no device
                module = Spec.from_json(settings["spec"]).module(heads=settings["heads"], mode=settings["mode"])
            module.set_calibration(settings["calibration"])
            attach(_layer(model, name), module)
            modules[name] = module
    return modules


def freeze_saved(modules: Mapping[str, SoftmaxModule], saved: Mapping[str, Mapping[str, Any]]) -> None:
    """Hold modules, whose parameters are loaded, to the constants of the settings.

    Raises:
        MethodError: the settings are damaged, or do not fit.
    """
    with _fitting():
        for name, module in modules.items():
            module.set_calibration(saved[name]["calibration"])  # which a state dict may have been loaded over
            if (constants := saved[name]["constants"]) is not None:
                frozen = module.spec.constants_class.from_json(constants)
                if not frozen.fits(module.build_constants()):
                    raise ValueError(f"the constants of {name} are not of the form that its spec has")
                module.freeze(frozen)


@contextmanager
def _fitting() -> Iterator[None]:
    """Say of errors within that the settings do not fit."""
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


def _of_layer(module: SoftmaxModule, state: Mapping[str, Tensor]) -> dict[str, Any]:
    whole = module
    sharded = {name: x for name, x in module.named_parameters() if hasattr(x, "full_tensor")}
    if state or sharded:
        whole = module.spec.module(heads=module.heads, mode=module.mode)
        whole.set_calibration(module.calibration)
        whole.load_state_dict(state or {name: x.full_tensor() for name, x in sharded.items()})
    try:
        constants: dict[str, Any] | None = (module._frozen or whole.constants).to_json()
    except ValueError:  # not calibrated yet
        constants = None
    return {
        "spec": module.spec.to_json(),
        "heads": module.heads,
        "mode": module.mode,
        "calibration": dict(module.calibration),
        "constants": constants,
    }
