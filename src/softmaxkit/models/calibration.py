"""Calibration of a whole model on batches of its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from softmaxkit.methods.base.module import Calibrator
from softmaxkit.models.attention import UnsupportedError, watching
from softmaxkit.models.key_bias import fold_log_sums
from softmaxkit.models.patch import active_layers
from softmaxkit.models.running import evaluating, run
from softmaxkit.models.saturation import Magnitudes, may_saturate, report

Batch = Tensor | Mapping[str, Any] | Sequence[Tensor]


def calibrate(model: PreTrainedModel, batches: Iterable[Batch]) -> PreTrainedModel:
    """Run batches through a model and let every method in it set its score scale, clip or range.

    Methods see the scores of the float model; EXAQ those of exact softmax. A method with nothing to calibrate is left
    as it is. Each layer's `statistics` then have `saturated_scores_percent`, the share of its scores that are beyond
    its codes in integer mode; where it is much and the scale was not fitted to the scores, one warning says so.

    Args:
        model: a model with a method in it.
        batches: token ids (batch, length), or dicts of what the model takes; 25 batches are usual.

    Returns:
        The same model.

    Raises:
        TypeError: a batch is of another kind.
        ValueError: no method is in the model, or there are no batches. The model is then unchanged.
    """
    modules = active_layers(model)
    magnitudes = {name: Magnitudes() for name, module in modules.items() if may_saturate(module)}
    results = observe(model, {name: module.calibrator() for name, module in modules.items()}, batches, magnitudes)
    report(modules, magnitudes, {name for name, values in results.items() if "scale" in values})
    return model


def convert(model: PreTrainedModel, batches: Iterable[Batch], fold: bool = True) -> PreTrainedModel:
    """Set a method's learned parameters so that it stands for the exact softmax of a pretrained model, in place.

    A start for fine-tuning, no more. Only ConSmax has such parameters; other methods are left alone.

    Args:
        model: a model with a method in it.
        batches: as for `calibrate`.
        fold: first fold into the key biases what makes rows differ, see `softmaxkit.models.key_bias.fold_log_sums`;
            models whose keys do not take that go without.

    Raises:
        TypeError, ValueError: as `calibrate`.
    """
    batches = list(batches)
    converters = {name: module.converter() for name, module in active_layers(model).items()}
    if fold and batches and any(converters.values()):
        with suppress(UnsupportedError):
            fold_log_sums(model, [inputs_of(batch) for batch in batches])
    observe(model, converters, batches)
    return model


def observe(
    model: PreTrainedModel,
    calibrators: Mapping[str, Calibrator | None],
    batches: Iterable[Batch],
    magnitudes: Mapping[str, Magnitudes] | None = None,
) -> dict[str, dict[str, Any]]:
    """Run batches while modules observe; they adopt the results only if all went well for all of them.

    Args:
        model: with the modules.
        calibrators: by layer.
        batches: as for `calibrate`.
        magnitudes: by layer, where scores are counted.

    Returns:
        what the calibrators found, by layer.

    Raises:
        TypeError, ValueError: as `calibrate`.
    """
    modules = active_layers(model)
    counted = {model.get_submodule(name): counts for name, counts in (magnitudes or {}).items()}
    observing = {name: calibrator for name, calibrator in calibrators.items() if calibrator is not None}
    if not observing and not counted:
        return {}

    def count(attention: nn.Module, query: Tensor, scores: Tensor, mask: Tensor | None) -> None:
        if attention in counted:
            counted[attention].add(scores, mask)

    try:
        for name, calibrator in observing.items():
            modules[name].observe_with(calibrator)
        with evaluating(model), watching(count):
            for batch in batches:
                run(model, inputs_of(batch))
    finally:
        for name in observing:
            modules[name].observe_with(None)
    results = {}
    for name, calibrator in observing.items():
        try:
            results[name] = calibrator.finish()
        except ValueError as error:
            raise ValueError(f"layer {name}: {error}") from None
    for name, values in results.items():
        modules[name].adopt(values)
    return results


def inputs_of(batch: Batch) -> Mapping[str, Any]:
    """Return a batch as what a model takes.

    Raises:
        TypeError: it is of another kind.
    """
    if isinstance(batch, list | tuple) and len(batch) == 1:  # as a TensorDataset gives them
        batch = batch[0]
    if isinstance(batch, Tensor) and batch.ndim == 2:
        return {"input_ids": batch}
    if isinstance(batch, Mapping):
        return batch
    what = f"a tensor of shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
    raise TypeError(f"batches are token ids (batch, length), or dicts of what the model takes, not {what}")
