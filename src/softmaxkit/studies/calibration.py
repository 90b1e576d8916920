"""A model calibrated on its own scores, with the method that is in it or with another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.calibration import calibrate
from softmaxkit.models.checkpoint import save
from softmaxkit.models.format_loss import report_format_loss
from softmaxkit.models.mixed_bits import mix_bits
from softmaxkit.models.patch import apply, layers, set_mode
from softmaxkit.models.pretrained import read_pretrained
from softmaxkit.models.text import read_corpus
from softmaxkit.record import make_record, make_result


@dataclass(frozen=True)
class CalibrationOptions:
    """What to calibrate.

    Attributes:
        model: folder or hub name.
        output: folder for the calibrated model.
        spec: the method to put in; None keeps those that are in it.
        text: a text file; None for the Python standard library's source.
        batches: of 16 windows, to look at, or of fewer long ones; None for as many as are usual.
        context: tokens in a window.
        mean_bits: choose the bits of each layer, so many on average, for a spec that has a choice; None keeps the
            spec's own.
    """

    model: str
    output: Path
    spec: Spec | None
    text: Path | None
    batches: int | None
    context: int
    mean_bits: float | None = None


def calibrate_model(options: CalibrationOptions, command: Sequence[str]) -> dict[str, Any]:
    """Calibrate a model, save it, and return the record.

    Args:
        options: what to calibrate.
        command: for the record.

    Returns:
        the record: a result for each layer, with `layer`, `calibration`, `statistics` and `constants`.

    Raises:
        ValueError: a text or model that cannot be used, no method to calibrate, or bits that cannot be had.
    """
    spec, context = options.spec, options.context
    model, tokenizer = read_pretrained(options.model, context, causal=False)
    corpus = read_corpus(options.text, tokenizer)
    windows = corpus.calibration_batches(context, count=options.batches)
    if spec is not None and options.mean_bits is not None:
        mix_bits(model, spec, windows, options.mean_bits)
        set_mode(model, "integer")
    else:
        if spec is not None:
            apply(model, spec, mode="integer")
        calibrate(model, windows)
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
