"""Calibration of a whole model on batches of its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from softmaxkit.methods.module import SoftmaxModule
from softmaxkit.models.attention import layers


def calibrate(model: PreTrainedModel, batches: Iterable[Tensor | Mapping[str, Any]]) -> PreTrainedModel:
    """Run batches through a model and let every method in it set its score scale, clip or range.

    Methods see the scores of the float model; EXAQ those of exact softmax. A method with nothing to calibrate is left
    alone.

    Args:
        model: a model with a method in it.
        batches: token ids (batch, length), or dicts of what the model takes; 25 batches are usual.

    Returns:
        The same model.

    Raises:
        ValueError: no method is in the model, or there are no batches.
    """
    observing = [module for module in _modules(model) if module.start_calibration(module.calibrator())]
    _observe(model, observing, batches)
    return model


def convert(model: PreTrainedModel, batches: Iterable[Tensor | Mapping[str, Any]]) -> PreTrainedModel:
    """Set a method's learned parameters so that it stands for the exact softmax of a pretrained model, in place.

    A start for fine-tuning, no more. Only ConSmax has such parameters; other methods are left alone.

    Raises:
        ValueError: no method is in the model, or there are no batches.
    """
    observing = [module for module in _modules(model) if module.start_calibration(module.converter())]
    _observe(model, observing, batches)
    return model


def _modules(model: PreTrainedModel) -> list[SoftmaxModule]:
    found = layers(model)
    if not found:
        raise ValueError("no method is in this model; put one in with softmaxkit.apply(model, spec)")
    return list(found.values())


def _observe(
    model: PreTrainedModel, observing: list[SoftmaxModule], batches: Iterable[Tensor | Mapping[str, Any]]
) -> None:
    """Run batches while modules observe; they keep what they found only if all went well."""
    training = model.training
    seen = 0
    try:
        model.eval()
        with torch.no_grad():
            for batch in batches if observing else ():
                inputs = {"input_ids": batch} if isinstance(batch, Tensor) else batch
                model(**{k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in inputs.items()})
                seen += 1
        if observing and not seen:
            raise ValueError("calibration saw no batches; give it at least one")
    except BaseException:
        for module in observing:
            module.finish_calibration(keep=False)
        raise
    finally:
        model.train(training)
    for module in observing:
        module.finish_calibration()
