"""Calibration of a whole model on batches of its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from softmaxkit.models.attention import layers

BATCHES = 25
"""How many batches EXAQ's paper calibrates on."""


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
    found = layers(model)
    if not found:
        raise ValueError("no method is in this model; put one in with softmaxkit.apply(model, spec)")
    observing = [module for module in found.values() if module.start_calibration()]
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
    return model
