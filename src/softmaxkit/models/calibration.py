"""Calibration of a whole model on batches of its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from softmaxkit.methods.base.calibrated import Calibrator
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.models.attention import UnsupportedError, watching
from softmaxkit.models.key_bias import fold_log_sums
from softmaxkit.models.patch import active_layers
from softmaxkit.models.running import evaluating, run
from softmaxkit.models.saturation import Magnitudes, may_saturate, report

Batch = Tensor | Mapping[str, Any] | Sequence[Tensor]


def calibrate(model: PreTrainedModel, batches: Iterable[Batch]) -> PreTrainedModel:
    """Calibrate every method in a model, in place: run batches and set its score scale, clip or output range.

    The batches run in evaluation mode and in floating point, whatever mode is set; EXAQ is calibrated on the scores of
    exact softmax. A method with nothing to calibrate is left as it is. Afterwards each layer's
    `softmaxkit.layers(model)[name].statistics` has `saturated_scores_percent`, the percentage of its scores outside
    the range of its integer score codes. If that is high in a layer whose scale was not fitted to its scores, one
    warning names the layer and the remedy.

    Args:
        model: a model to which `softmaxkit.apply` has been called.
        batches: the calibration set: tensors of token ids (batch, length), or dicts of the model's inputs. 25 batches
            are usual. Padded keys do not count; the rows of padded queries do, since transformers masks keys only.

    Returns:
        The same model.

    Raises:
        TypeError: a batch is neither token ids nor a dict.
        ValueError: the model has no method, its attention function was changed after `apply`, or there are no
            batches. The model is unchanged if anything is raised.

    Example:
        >>> softmaxkit.apply(model, softmaxkit.Exaq(bits=3))
        >>> softmaxkit.calibrate(model, [tokenizer(text, return_tensors="pt") for text in texts])
        >>> softmaxkit.set_mode(model, "integer")
    """
    modules = active_layers(model)
    magnitudes = {name: Magnitudes() for name, module in modules.items() if may_saturate(module)}
    results = observe(model, {name: module.calibrator() for name, module in modules.items()}, batches, magnitudes)
    with _adopted(modules, results):
        report(modules, magnitudes, {name for name, values in results.items() if "scale" in values})
    return model


def convert(model: PreTrainedModel, batches: Iterable[Batch], fold: bool = True) -> PreTrainedModel:
    """Set a method's learned parameters, in place, to approximate the exact softmax of a pretrained model.

    This is only a starting point for fine-tuning. Only ConSmax has such parameters; other methods are left as they are.

    Args:
        model: a model to which `softmaxkit.apply` has been called.
        batches: as for `calibrate`.
        fold: first fold the part of the log-sums that differs between rows into the key biases, see
            `softmaxkit.models.key_bias.fold_log_sums`; skipped for models whose keys do not allow it.

    Raises:
        TypeError, ValueError: as `calibrate`.
    """
    batches = list(batches)
    modules = active_layers(model)
    converters = {name: module.converter() for name, module in modules.items()}
    if fold and batches and any(converters.values()):
        with suppress(UnsupportedError):
            fold_log_sums(model, [inputs_of(batch) for batch in batches])
    with _adopted(modules, observe(model, converters, batches)):
        return model


def observe(
    model: PreTrainedModel,
    calibrators: Mapping[str, Calibrator | None],
    batches: Iterable[Batch],
    magnitudes: Mapping[str, Magnitudes] | None = None,
) -> dict[str, dict[str, Any]]:
    """Run batches while calibrators observe the layers, and return their results, which nothing adopts yet.

    Args:
        model: a model with methods in it.
        calibrators: one for each layer, by name; None for a layer with nothing to calibrate.
        batches: as for `calibrate`.
        magnitudes: histograms of score magnitudes to fill, by layer.

    Returns:
        The calibrated values, by layer.

    Raises:
        TypeError, ValueError: as `calibrate`.
    """
    modules = active_layers(model)
    counted = {model.get_submodule(name): counts for name, counts in (magnitudes or {}).items()}
    observing = {name: calibrator for name, calibrator in calibrators.items() if calibrator is not None}

    def count(attention: nn.Module, query: Tensor, scores: Tensor, mask: Tensor | None) -> None:
        if attention in counted:
            counted[attention].add(scores, mask)

    try:
        for name, calibrator in observing.items():
            modules[name].observe_with(calibrator)
        with evaluating(model), watching(count):
            is_empty = True
            for batch in batches:
                inputs = inputs_of(batch)
                is_empty = False
                if not observing and not counted:
                    break  # enough to refuse what is not a calibration set
                run(model, inputs)
        if is_empty:
            raise ValueError("there are no batches; pass at least one, and no iterator that was read to its end before")
    finally:
        for name in observing:
            modules[name].observe_with(None)
    results = {}
    for name, calibrator in observing.items():
        try:
            results[name] = calibrator.finish()
        except ValueError as error:
            raise ValueError(f"layer {name}: {error}") from None
    return results


@contextmanager
def _adopted(modules: Mapping[str, SoftmaxModule], results: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Let modules adopt their results, all or none: undone if one cannot, or if the block raises, as of a warning."""
    with ExitStack() as stack:
        for module in modules.values():
            stack.enter_context(module.unchanged_on_error())
        for name, values in results.items():
            modules[name].adopt(values)
        yield


def inputs_of(batch: Batch) -> Mapping[str, Any]:
    """Return a batch as keyword arguments of a model.

    Raises:
        TypeError: it is neither token ids nor a dict.
    """
    if isinstance(batch, list | tuple) and len(batch) == 1:  # as a DataLoader over a TensorDataset yields them
        batch = batch[0]
    if isinstance(batch, Tensor) and batch.ndim == 2:
        return {"input_ids": batch}
    if isinstance(batch, Mapping):
        return batch
    what = f"a tensor of shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
    raise TypeError(f"batches must be token ids (batch, length) or dicts of the model's inputs, got {what}")
