"""Three functions of transformers that learn of methods: saving, pushing to the hub, and what weight decay is for.

Attention functions, masks and quantisations are registered with transformers; for these three it has no such door, so
they are wrapped when `softmaxkit.models` is imported. For a model without a method they do what they did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from softmaxkit.models.attention import NAME
from softmaxkit.models.card import write_card
from softmaxkit.models.patch import active_layers, layers
from softmaxkit.models.quantizer import SoftmaxConfig

_MARK = "_softmaxkit_wrapped"


def install() -> None:
    """Wrap what is not wrapped yet."""
    _wrap(PreTrainedModel, "save_pretrained", _save_pretrained)
    _wrap(PreTrainedModel, "_upload_modified_files", _upload)
    _wrap(Trainer, "get_decay_parameter_names", _decay_parameter_names)


def method_parameters(model: nn.Module) -> list[str]:
    """Return the names of the parameters that methods brought into a model."""
    own = {id(parameter) for module in layers(model).values() for parameter in module.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in own]


def check_savable(model: PreTrainedModel) -> None:
    """Refuse models whose methods cannot be saved with them.

    Raises:
        ValueError: the methods are in the model but do not run, or the model is quantised: its config has one place
            for a quantisation, which the methods would need.
    """
    active_layers(model)
    if _quantisation(model) not in (None, NAME):
        raise ValueError(
            f"this {type(model).__name__} is quantised, and config.json has one place for a quantisation, where the "
            "method would go too: save the model without the quantisation, or take the method out with "
            "softmaxkit.restore(model) and apply it again after loading"
        )


def _quantisation(model: PreTrainedModel) -> str | None:
    """Return what quantisation a model's config names: another than ours, or ours where it was made by a config."""
    named = getattr(model.config, "quantization_config", None)
    return None if named is None else dict(named).get("quant_method", "unknown")


@contextmanager
def _described(model: PreTrainedModel, state: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Let a model's config name its methods, for the time of saving.

    `attn_implementation` is what makes transformers refuse the model where softmaxkit is not imported: of a
    quantisation that it does not know it only warns.
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
    # Of a model with adapters transformers saves these alone: the method is in the model below them.
    if not layers(model) or getattr(model, "_hf_peft_config_loaded", False):
        if _quantisation(model) == NAME:  # of a model made by the config of a checkpoint, without its method
            del model.config.quantization_config
        return original(model, save_directory, is_main_process, state_dict, *arguments, **options)
    check_savable(model)
    with _described(model, state_dict):
        result = original(model, save_directory, is_main_process, state_dict, *arguments, **options)
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
    """Put a wrapper around a method of a class, once."""
    original = getattr(owner, name, None)
    if original is None or hasattr(original, _MARK):
        return

    @wraps(original)
    def wrapped(self: Any, *arguments: Any, **options: Any) -> Any:
        return wrapper(original, self, *arguments, **options)

    setattr(wrapped, _MARK, True)
    setattr(owner, name, wrapped)
