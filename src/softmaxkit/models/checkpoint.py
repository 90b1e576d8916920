"""Checkpoints that bring spec, constants and learned parameters back.

A checkpoint is a plain transformers one, which loads without softmaxkit as the exact model, and beside it
`softmaxkit.json` (specs, modes, calibrations and constants by layer) and, where there are any,
`softmaxkit.safetensors` (learned parameters).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedModel

import softmaxkit
from softmaxkit.files import whole_folder, write_json
from softmaxkit.methods.module import SoftmaxModule
from softmaxkit.models.attention import NAME, hang, layers, switch_on
from softmaxkit.spec import SCHEMA, Spec

SETTINGS_FILE = "softmaxkit.json"
PARAMETERS_FILE = "softmaxkit.safetensors"


def save(model: PreTrainedModel, path: str | Path) -> Path:
    """Write a model and its methods into a folder, whole or not at all; a folder that is there is replaced.

    Args:
        model: a transformers model; with no method in it, this writes a plain checkpoint.
        path: the folder.

    Returns:
        The folder.

    Raises:
        OSError: it cannot be written; an older checkpoint there is then untouched.
    """
    found = layers(model)
    own = {f"{name}.{NAME}.{key}" for name, module in found.items() for key in module.state_dict()}
    state = model.state_dict()
    path = Path(path)
    with whole_folder(path) as folder:
        model.save_pretrained(folder, state_dict={key: value for key, value in state.items() if key not in own})
        if found:
            settings = {
                "schema": SCHEMA,
                "softmaxkit": softmaxkit.__version__,
                "layers": {name: _settings(module) for name, module in found.items()},
            }
            write_json(folder / SETTINGS_FILE, settings)
        if own:
            save_file({key: state[key].contiguous() for key in sorted(own)}, folder / PARAMETERS_FILE)
    return path


def load(path: str | Path, **kwargs: Any) -> PreTrainedModel:
    """Read a model with its methods, as `save` wrote it; a checkpoint without methods is read as it is.

    Args:
        path: the folder, or for a model without methods a hub name.
        kwargs: for transformers' `from_pretrained`, e.g. `dtype`.

    Raises:
        ValueError: the folder is no checkpoint, its `softmaxkit.json` is damaged or newer than this version, or it
            does not fit the model.
    """
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} is no checkpoint that transformers can read: {first_line}") from None
    architecture = getattr(transformers, (config.architectures or ["?"])[0], None)
    if architecture is None:
        raise ValueError(f"{path}: config.json names no model class of transformers, but {config.architectures}")
    try:
        model: PreTrainedModel = architecture.from_pretrained(path, **kwargs)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path}: {str(error).strip().splitlines()[0]}") from None
    settings_path = Path(path) / SETTINGS_FILE
    if not settings_path.is_file():
        return model
    saved = _read_settings(settings_path)
    try:
        modules = {name: _module(settings) for name, settings in saved["layers"].items()}
        for name, module in modules.items():
            hang(model.get_submodule(name), module)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{settings_path} does not fit the model: {error}") from None
    switch_on(model)
    parameters_path = Path(path) / PARAMETERS_FILE
    parameters = load_file(parameters_path) if parameters_path.is_file() else {}
    for name, module in layers(model).items():
        prefix = f"{name}.{NAME}."
        own = {key.removeprefix(prefix): value for key, value in parameters.items() if key.startswith(prefix)}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise ValueError(f"{parameters_path} does not fit layer {name}: {error}") from None
        constants = saved["layers"][name]["constants"]
        if constants is not None:
            module.freeze(module.spec.constants_class.from_json(constants))
    model.eval()
    return model


def _settings(module: SoftmaxModule) -> dict[str, Any]:
    try:
        constants: dict[str, Any] | None = module.constants.to_json()
    except ValueError:  # not calibrated yet
        constants = None
    return {
        "spec": module.spec.to_json(),
        "heads": module.heads,
        "mode": module.mode,
        "calibration": module.calibration,
        "constants": constants,
    }


def _module(settings: dict[str, Any]) -> SoftmaxModule:
    module = Spec.from_json(settings["spec"]).module(heads=settings["heads"], mode=settings["mode"])
    module.set_calibration(settings["calibration"])
    return module


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema = saved["schema"]
        _ = saved["layers"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); save the model again with softmaxkit.save") from None
    if schema != SCHEMA:
        raise ValueError(f'{path} has "schema": {schema!r}; this version of softmaxkit reads {SCHEMA}')
    return saved


def trainable(model: torch.nn.Module) -> list[str]:
    """Return the names of the parameters that methods brought into a model; keep these out of weight decay."""
    return [f"{name}.{NAME}.{key}" for name, module in layers(model).items() for key, _ in module.named_parameters()]
