"""Wrappers of three functions of transformers: saving, pushing to the hub, and the choice of decayed parameters.

transformers has registries for attention functions, masks and quantisations but not for these three, so they are
wrapped when `softmaxkit.models` is imported. For a model without a method they behave as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from softmaxkit.models.attention import NAME, quantisation_of
from softmaxkit.models.card import write_card
from softmaxkit.models.patch import active_layers, layers
from softmaxkit.models.quantizer import SoftmaxConfig
from softmaxkit.warning import warn

_MARK = "_softmaxkit_wrapped"


def install() -> None:
    """Wrap those of the functions that are not wrapped yet."""
    _wrap(PreTrainedModel, "save_pretrained", _save_pretrained)
    _wrap(PreTrainedModel, "_upload_modified_files", _upload)
    _wrap(Trainer, "get_decay_parameter_names", _decay_parameter_names)


def method_parameters(model: nn.Module) -> list[str]:
    """Return the names of a model's parameters that belong to its methods."""
    own = {id(parameter) for module in layers(model).values() for parameter in module.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in own]


def check_savable(model: PreTrainedModel) -> None:
    """Reject a model whose methods cannot be saved with it.

    Raises:
        ValueError: the model has methods that do not run, or it is quantised: config.json has room for a single
            `quantization_config`, which the methods need.
    """
    active_layers(model)
    if quantisation_of(model) not in (None, NAME):
        raise ValueError(
            f"this {type(model).__name__} is quantised, and the method would be stored in the same "
            "quantization_config of config.json: save the model without the quantisation, or remove the method with "
            "softmaxkit.restore(model) and apply it again after loading"
        )


@contextmanager
def _described(model: PreTrainedModel, state: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Name a model's methods in its config while it is being saved.

    `attn_implementation` makes transformers refuse the checkpoint if softmaxkit is not imported; an unknown
    `quantization_config` alone only produces a warning.
    """
    config: Any = model.config
    config.quantization_config, config.attn_implementation = SoftmaxConfig.of(model, state), NAME
    try:
        yield
    finally:
        del config.quantization_config, config.attn_implementation


def _save_pretrained(
    original: Callable[..., Any],
    model: PreTrainedModel,
    save_directory: Any,
    is_main_process: bool = True,
    state_dict: Mapping[str, Tensor] | None = None,
    *arguments: Any,
    **options: Any,
) -> Any:
    save = partial(original, model, save_directory, is_main_process, state_dict, *arguments, **options)
    # transformers saves only the adapters of a model that has some; the method belongs to the base model.
    if not layers(model) or getattr(model, "_hf_peft_config_loaded", False):
        if quantisation_of(model) == NAME:
            warn(
                f"this {type(model).__name__} was built from the config of a checkpoint with methods, but has none, "
                "and is saved as a model without"
            )
            del model.config.quantization_config
        return save()
    check_savable(model)
    if state_dict is not None and not is_main_process:  # its config is not written, and its state dict may be empty
        return save()
    with _described(model, state_dict):
        result = save()
    if is_main_process:
        write_card(Path(save_directory), model, Path(save_directory).name)
    return result


def _upload(
    original: Callable[..., Any], model: Any, working_dir: Any, repo_id: str, *rest: Any, **options: Any
) -> Any:
    if isinstance(model, PreTrainedModel) and layers(model):
        write_card(Path(working_dir), model, repo_id)
    return original(model, working_dir, repo_id, *rest, **options)


def _decay_parameter_names(original: Callable[..., list[str]], trainer: Trainer, model: Any) -> list[str]:
    own = set(method_parameters(model))
    return [name for name in original(trainer, model) if name not in own]


def _wrap(owner: type, name: str, wrapper: Callable[..., Any]) -> None:
    """Wrap a method of a class, unless it is wrapped already."""
    original = getattr(owner, name, None)
    if original is None or hasattr(original, _MARK):
        return

    @wraps(original)
    def wrapped(self: Any, *arguments: Any, **options: Any) -> Any:
        return wrapper(original, self, *arguments, **options)

    setattr(wrapped, _MARK, True)
    setattr(owner, name, wrapped)
