"""Calibrate a model on its own scores, with the method that is in it or with another one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.calibration import calibrate
from softmaxkit.models.checkpoint import save
from softmaxkit.models.format_loss import report_format_loss
from softmaxkit.models.mixed_bits import mix_bits
from softmaxkit.models.patch import apply, layers, set_mode
from softmaxkit.models.pretrained import read_pretrained
from softmaxkit.models.text import read_corpus
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.progress import Progress, Stage
from softmaxkit.warning import warn


def _warn_of_learned(model: PreTrainedModel, name: str) -> None:
    """Warn of parameters that were just put in, and that only training sets."""
    module = next(iter(layers(model).values()))
    learned = [parameter for parameter, _ in module.named_parameters()]
    if learned and module.spec.training != "calibrated":
        warn(
            f"calibration does not set {' and '.join(learned)} of {module.spec.title}, only training does: "
            f"softmaxkit train {module.spec.method} --from {name}"
        )


def _reported(batches: Sequence[Tensor], progress: Progress) -> Iterator[Tensor]:
    """Yield batches, and report how many have been used."""
    for number, batch in enumerate(batches):
        progress(number, len(batches))
        yield batch
    progress(len(batches), len(batches))


@dataclass(frozen=True)
class CalibrationOptions:
    """What to calibrate.

    Attributes:
        model: folder or hub name.
        output: folder for the calibrated model.
        spec: the method to apply; None keeps the methods that are in the model.
        text: a text file; None for the Python standard library's source.
        batches: number of calibration batches, of 16 windows, or fewer if they are long; None for the default.
        context: tokens per window.
        mean_bits: choose the number of bits of each layer, with this mean, for a spec that offers a choice; None keeps
            the spec's own.
    """

    model: str
    output: Path
    spec: Spec | None
    text: Path | None
    batches: int | None
    context: int
    mean_bits: float | None = None


def calibrate_model(options: CalibrationOptions, command: Sequence[str], stage: Stage) -> dict[str, Any]:
    """Calibrate a model, save it, and return the record.

    Args:
        options: what to calibrate.
        command: the command line, for the record.
        stage: reports progress.

    Returns:
        The record: a result for each layer, with `layer`, `calibration`, `statistics` and `constants`.

    Raises:
        ValueError: the text or model cannot be used, there is no method to calibrate, or `mean_bits` is out of range.
    """
    spec, context = options.spec, options.context
    model, tokenizer = read_pretrained(options.model, context, causal=False)
    corpus = read_corpus(options.text, tokenizer)
    windows = corpus.calibration_batches(context, count=options.batches)
    if spec is not None and options.mean_bits is not None:
        stage(f"calibrate {len(spec.by_bits())} numbers of bits, and choose among them")
        mix_bits(model, spec, windows, options.mean_bits)
        set_mode(model, "integer")
    else:
        if spec is not None:
            apply(model, spec, mode="integer")
            _warn_of_learned(model, options.model)
        calibrate(model, _reported(windows, stage("calibrate")))
    stage("measure what integers lose, and save the model")
    report_format_loss(model, windows[0])
    save(model, options.output, tokenizer)
    results = [
        make_result(
            module.spec,
            module.mode,
            layer=name,
            calibration=module.calibration,
            statistics=module.statistics,
            constants=module.constants.to_json(),
        )
        for name, module in layers(model).items()
    ]
    inputs = {"text": corpus.describe(), "model": {"name": options.model}, "batches": len(windows)}
    return make_record(command, 0, inputs, results)
