"""Checkpoints that restore spec, constants and learned parameters.

The format is transformers' own: `config.json` names the methods (see `quantizer`), and the learned parameters are
among the weights. Earlier versions of softmaxkit wrote a plain checkpoint with `softmaxkit.json` and
`softmaxkit.safetensors` next to it; these are read too.
"""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from softmaxkit.files import whole_folder
from softmaxkit.methods.base.numbers import is_sharded
from softmaxkit.models.attention import NAME
from softmaxkit.models.card import write_card
from softmaxkit.models.errors import first_line
from softmaxkit.models.hooks import check_savable
from softmaxkit.models.patch import layers
from softmaxkit.models.settings import MethodError, attach_saved, check_schema, freeze_saved
from softmaxkit.models.sources import GGUF, check_place, gguf_alone, unreadable
from softmaxkit.models.switching import remember, switch_on

SETTINGS_FILE = "softmaxkit.json"
PARAMETERS_FILE = "softmaxkit.safetensors"
HUB_OPTIONS = ("revision", "token", "cache_dir", "subfolder")
REPLACED = (
    *("config.json", "generation_config.json", SETTINGS_FILE, PARAMETERS_FILE),
    *("model.safetensors", "model.*.safetensors", "model-*-of-*.safetensors", "model.safetensors.index*.json"),
    *("pytorch_model.bin", "pytorch_model.*.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index*.json"),
)
"""Patterns of the files that a new checkpoint replaces: settings and weights, whole, in shards or of a variant. Other
files in its folder are kept."""


def save(model: PreTrainedModel, path: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Path:
    """Save a model and its methods to a folder, atomically: either the whole checkpoint is written or nothing is.

    This checks the model and then writes what `model.save_pretrained` writes: spec, mode, calibration and constants
    of each layer in `config.json`, learned parameters among the weights. A checkpoint already in the folder is
    replaced; other files and folders, such as a tokenizer or `.git`, are kept, and so is a README except for its
    section on the method.

    Args:
        model: a transformers model; one without a method is saved as a plain checkpoint.
        path: the folder, which is created if it does not exist.
        tokenizer: saved to the same folder, if given.

    Returns:
        The absolute path of the folder.

    Raises:
        TypeError: `model` is not a transformers model; one wrapped by PEFT is not.
        ValueError: `path` is a file, or a non-empty folder without a model; or the model has adapters, is quantised or
            sharded over processes, or had its attention function changed after `apply`, so that its methods do not run.
        OSError: writing failed; a checkpoint that was already there is untouched.

    Example:
        >>> softmaxkit.save(model, "my-llama-exaq", tokenizer)
        >>> model = softmaxkit.load("my-llama-exaq")
    """
    _check_model(model)
    path = check_folder(path)
    with whole_folder(path) as folder:
        for entry in path.iterdir() if path.is_dir() else ():
            if not any(fnmatchcase(entry.name, pattern) for pattern in REPLACED):
                _copy(entry, folder)
        model.save_pretrained(folder)
        write_card(folder, model, path.name)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    return path


def _copy(entry: Path, folder: Path) -> None:
    """Copy a file, or a folder with all that is in it, into a folder."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.copytree(entry, folder / entry.name, symlinks=True)
    else:  # linked files are copied, since a tokenizer may be written over them; other links stay links
        shutil.copy2(entry, folder / entry.name, follow_symlinks=entry.is_file())


def _check_model(model: Any) -> None:
    adapters = "merge them into it first, softmaxkit.save(model.merge_and_unload(), ...)"
    if not isinstance(model, PreTrainedModel):
        base = "pass the model inside"
        if type(model).__module__.startswith("peft."):
            base = f"{adapters}, or save them alone with model.save_pretrained"
        raise TypeError(f"save takes a transformers model, not {type(model).__name__}; {base}")
    if any(type(part).__module__.startswith("peft.") for part in model.modules()):
        raise ValueError(f"this {type(model).__name__} contains PEFT adapters; {adapters}")
    if any(map(is_sharded, model.parameters())):
        raise ValueError(
            f"this {type(model).__name__} is sharded over processes; gather its state dict in all of them, state = "
            "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)) of "
            "torch.distributed.checkpoint.state_dict, and call model.save_pretrained(folder, state_dict=state) in one"
        )
    if layers(model):
        check_savable(model)


def check_folder(path: str | Path) -> Path:
    """Return the absolute path of a folder to which a checkpoint may be written.

    Raises:
        ValueError: it is a file, or a non-empty folder that does not contain a model.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; choose a folder for the model")
    if path.is_dir() and any(path.iterdir()) and not (path / "config.json").is_file():
        raise ValueError(f"{path} is not empty and contains no model; choose another folder")
    return path


def load(path: str | Path, model_class: Any = None, **kwargs: Any) -> PreTrainedModel:
    """Load a model and its methods, as written by `softmaxkit.save` or `save_pretrained`.

    A checkpoint without methods is loaded as a plain model. Saved constants are used as they are, integer for integer,
    until the model trains or other learned parameters are loaded.

    Args:
        path: a folder, or a name on the Hugging Face hub.
        model_class: the model's class, required if `config.json` does not name a class of transformers, e.g. for a
            subclass of your own; or one of transformers' `AutoModel` classes.
        kwargs: passed to transformers' `from_pretrained`, e.g. `dtype`, `revision` or `gguf_file`. Code in the
            checkpoint runs only with `trust_remote_code=True`.

    Returns:
        The model, in evaluation mode, with each layer's spec, mode, calibration and constants restored.

    Raises:
        ValueError: there is no checkpoint at `path`; part of it is missing, damaged or of a format that this version
            does not read; or its method was lost or does not fit the model.

    Example:
        >>> model = softmaxkit.load("my-llama-exaq", dtype=torch.bfloat16)
        >>> softmaxkit.layers(model)
    """
    if "gguf_file" not in kwargs:
        _check_is_no_gguf(Path(path))
    check_place(path)
    where: dict[str, Any] = {key: kwargs[key] for key in HUB_OPTIONS if key in kwargs}
    kwargs.setdefault("trust_remote_code", False)  # without it, transformers prompts on the terminal
    more = {key: kwargs[key] for key in ("gguf_file", "trust_remote_code") if key in kwargs}
    try:
        config = (getattr(model_class, "config_class", None) or AutoConfig).from_pretrained(path, **where, **more)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{path} is a model with code of its own, which does not run by default; if you trust it, load it "
                "with softmaxkit.load(..., model_class=..., trust_remote_code=True)"
            ) from None
        raise ValueError(unreadable(path, "a checkpoint that transformers can read", first_line(error))) from None
    architecture = model_class or getattr(transformers, (config.architectures or ["?"])[0], None)
    if architecture is None:
        names = (
            "a GGUF file does not name its model class; pass one of transformers' AutoModel classes"
            if "gguf_file" in kwargs
            else f"config.json names {config.architectures}, which is not a model class of transformers; pass the class"
        )
        raise ValueError(f"{path}: {names} with softmaxkit.load(..., model_class=...)")
    try:
        model, report = architecture.from_pretrained(path, output_loading_info=True, **kwargs)
    except MethodError as error:
        raise ValueError(f"{path}: {error}") from None
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(f"cannot read the weights of {path}: {first_line(error)}") from None
    if report["missing_keys"]:
        raise ValueError(f"the weights of {path} are incomplete: {sorted(report['missing_keys'])[0]} is missing")
    if "gguf_file" in kwargs:
        _forget_quantisation(model)
    model.eval()
    settings, parameters = (_companion(path, name, where) for name in (SETTINGS_FILE, PARAMETERS_FILE))
    if not layers(model):
        if settings is not None:
            _put_back(model, settings, parameters)
        elif any(f".{NAME}." in key for key in report["unexpected_keys"]) or config._attn_implementation == NAME:
            raise ValueError(
                f"{path} has lost its method: its config.json names none, and there is no {SETTINGS_FILE}; it was "
                "written by save_pretrained under an earlier softmaxkit. Call softmaxkit.apply on a model, load the "
                "weights with model.load_state_dict, and save it again"
            )
    loaded: PreTrainedModel = model
    return loaded


def _check_is_no_gguf(path: Path) -> None:
    is_file = path.suffix.lower() == GGUF and path.is_file()
    files = [path] if is_file else [path / name for name in gguf_alone(path)]
    if files:
        what = "is a file, not a folder; load it" if is_file else "has no config.json, but GGUF files; load one"
        call = f'softmaxkit.load("{files[0].parent}", AutoModelForCausalLM, gguf_file="{files[0].name}")'
        raise ValueError(f"{path} {what} with {call}")


def _forget_quantisation(model: PreTrainedModel) -> None:
    """Mark a model whose weights were dequantised on loading as a plain one, which can be saved and trained."""
    for holder, name in ((model.config, "quantization_config"), (model, "hf_quantizer"), (model, "is_quantized")):
        if hasattr(holder, name):
            delattr(holder, name)


def _put_back(model: PreTrainedModel, settings: Path, parameters: Path | None) -> None:
    """Restore the methods of a checkpoint of an earlier version; no parameter may be missing or left over."""
    saved = _read_settings(settings)["layers"]
    try:
        tensors = load_file(parameters) if parameters is not None else {}
        modules = attach_saved(model, saved)
        for name, module in modules.items():
            prefix = f"{name}.{NAME}."
            own = [key for key in tensors if key.startswith(prefix)]
            module.load_state_dict({key.removeprefix(prefix): tensors.pop(key) for key in own})
        freeze_saved(modules, saved)
        if tensors:
            raise ValueError(f"{sorted(tensors)[0]} belongs to no layer")
    except (MethodError, RuntimeError, SafetensorError, ValueError) as error:
        raise ValueError(f"{settings} does not fit its model: {first_line(error)}") from None
    remember(model, switch_on(model))


def _companion(path: str | Path, name: str, where: dict[str, Any]) -> Path | None:
    """Return a file of softmaxkit's stored with a model, in its folder or on the hub; None if there is none."""
    file = cached_file(
        str(path),
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **where,
    )
    return None if file is None else Path(file)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = saved["schema"], saved["layers"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); save the model again with softmaxkit.save") from None
    check_schema(saved, str(path))
    return saved
