"""Checkpoints that bring spec, constants and learned parameters back.

A checkpoint is a plain transformers one, which loads without softmaxkit as the exact model, and beside it
`softmaxkit.json` (specs, modes, calibrations and constants by layer) and, where there are any,
`softmaxkit.safetensors` (learned parameters).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

import softmaxkit
from softmaxkit.files import whole_folder, write_json
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.models.attention import NAME
from softmaxkit.models.patch import hang, layers, remember, switch_on
from softmaxkit.methods.base.fields import SCHEMA
from softmaxkit.methods.base.spec import Spec

SETTINGS_FILE = "softmaxkit.json"
PARAMETERS_FILE = "softmaxkit.safetensors"
HUB_OPTIONS = ("revision", "token", "cache_dir", "subfolder")
REPLACED = ("softmaxkit.", "model", "pytorch_model", "generation_config")
"""How the names of files begin that a new checkpoint replaces; others beside it are kept."""


def save(model: PreTrainedModel, path: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Path:
    """Write a model and its methods into a folder, whole or not at all.

    A checkpoint that is there is replaced; other files beside it, such as a tokenizer or a README, are kept.

    Args:
        model: a transformers model; with no method in it, this writes a plain checkpoint.
        path: the folder.
        tokenizer: written with it where given.

    Returns:
        The folder.

    Raises:
        ValueError: the path is a file, or a folder of something else.
        OSError: it cannot be written; an older checkpoint there is then untouched.
    """
    path = check_folder(path)
    found = layers(model)
    own = {f"{name}.{NAME}.{key}" for name, module in found.items() for key in module.state_dict()}
    state = model.state_dict()
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
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        for file in path.iterdir() if path.is_dir() else ():
            if file.is_file() and not file.name.startswith(REPLACED) and not (folder / file.name).exists():
                shutil.copy2(file, folder)
    return path


def check_folder(path: str | Path) -> Path:
    """Return a path that a checkpoint may be written to.

    Raises:
        ValueError: it is a file, or a folder with something in it that is no checkpoint.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; give a folder to write the model to")
    if path.is_dir() and any(path.iterdir()) and not (path / "config.json").is_file():
        raise ValueError(f"{path} is not empty and holds no model; give another folder")
    return path


def load(path: str | Path, **kwargs: Any) -> PreTrainedModel:
    """Read a model with its methods, as `save` wrote it; one without methods is read as it is.

    Args:
        path: the folder, or a hub name.
        kwargs: for transformers' `from_pretrained`, e.g. `dtype` or `revision`.

    Raises:
        ValueError: it is no checkpoint, parts of it are missing, damaged, or newer than this version, or its
            `softmaxkit.json` does not fit the model.
    """
    where: dict[str, Any] = {key: kwargs[key] for key in HUB_OPTIONS if key in kwargs}
    try:
        config = AutoConfig.from_pretrained(path, **where)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no checkpoint that transformers can read: {_first_line(error)}") from None
    architecture = getattr(transformers, (config.architectures or ["?"])[0], None)
    if architecture is None:
        raise ValueError(f"{path}: config.json names no model class of transformers, but {config.architectures}")
    try:
        model, report = architecture.from_pretrained(path, output_loading_info=True, **kwargs)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(f"cannot read the weights of {path}: {_first_line(error)}") from None
    if report["missing_keys"]:
        raise ValueError(f"the weights of {path} are incomplete: {sorted(report['missing_keys'])[0]} is missing")
    model.eval()
    settings, parameters = (_companion(path, name, where) for name in (SETTINGS_FILE, PARAMETERS_FILE))
    if settings is None and any(f".{NAME}." in key for key in report["unexpected_keys"]):
        raise ValueError(
            f"{path} holds parameters of a method but no {SETTINGS_FILE}: it was written by transformers' "
            "save_pretrained; load it into a model that has had softmaxkit.apply, or write it with softmaxkit.save"
        )
    if settings is not None:
        _put_back(model, settings, parameters)
    loaded: PreTrainedModel = model
    return loaded


def _put_back(model: PreTrainedModel, settings: Path, parameters: Path | None) -> None:
    """Put the methods of a checkpoint into its model, and check that nothing is missing or left over."""
    saved = _read_settings(settings)["layers"]
    try:
        modules = {name: _module(each) for name, each in saved.items()}
        tensors = load_file(parameters) if parameters is not None else {}
        for name, module in modules.items():
            prefix = f"{name}.{NAME}."
            own = [key for key in tensors if key.startswith(prefix)]
            module.load_state_dict({key.removeprefix(prefix): tensors.pop(key) for key in own})
            hang(model.get_submodule(name), module)
            if (constants := saved[name]["constants"]) is not None:
                frozen = module.spec.constants_class.from_json(constants)
                if not frozen.fits(module.build_constants()):
                    raise ValueError(f"the constants of {name} are not of the form that its spec has")
                module.freeze(frozen)
        if tensors:
            raise ValueError(f"{sorted(tensors)[0]} belongs to no layer")
    except (AttributeError, IndexError, KeyError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{settings} does not fit its model: {_first_line(error)}") from None
    remember(model, switch_on(model))


def _companion(path: str | Path, name: str, where: dict[str, Any]) -> Path | None:
    """Return a file of our own beside a model, in its folder or on the hub; None where it has none."""
    found = cached_file(
        str(path),
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **where,
    )
    return None if found is None else Path(found)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
