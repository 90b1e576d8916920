"""Advice: which unit, which method, and which number formats are too narrow."""

from __future__ import annotations

from typing import Any

from page_records import small_record

from softmaxkit.report import render
from softmaxkit.report.advice import advice, lost_to_formats
from softmaxkit.report.record import read_variants

COSTS = {
    "exact": (33_000.0, 90.0, 0.0),
    "softermax": (22_000.0, 32.0, 0.1),
    "exaq": (15_000.0, 18.0, 0.6),
    "consmax": (17_000.0, 12.0, 3.0),
}


def record(**changes: float) -> dict[str, Any]:
    """Return a record in which each method has the costs and loss of `COSTS` in both modes, except for `changes`."""
    made = small_record()
    made["results"] = [result for result in made["results"] if result["method"] in COSTS]
    for result in made["results"]:
        area, energy, loss = COSTS[result["method"]]
        result.update(area_um2=area, energy_pj_per_element=energy, loss_change_percent=loss)
        if result["mode"] == "integer" and result["method"] in changes:
            result["loss_change_percent"] = changes[result["method"]]
    return made


def test_the_unit_of_least_energy_within_the_budget_is_named() -> None:
    chip, *_ = advice(read_variants(record()))
    assert chip.startswith("For a chip: EXAQ")
    assert "(+0.60%" in chip
    assert "15,000 µm² and 18 pJ per score, compared with 33,000 µm² and 90 pJ per score for Exact" in chip
    chip, *_ = advice(read_variants(record(exaq=1.2)))
    assert chip.startswith("For a chip: Softermax")
    chip, *_ = advice(read_variants(record(exaq=5.0, softermax=2.0)))
    assert "no unit stays within a 1% increase of the loss; the closest is Softermax" in chip


def test_formats_that_are_too_narrow_are_named() -> None:
    assert not lost_to_formats(read_variants(record()))
    (sentence,) = lost_to_formats(read_variants(record(softermax=7.3)))
    assert "Softermax" in sentence
    assert "+0.10% in floating point, +7.30% in integers; softmaxkit recommend" in sentence
    assert sentence in render(record(softermax=7.3))


def test_a_record_without_hardware_advises_on_models_alone() -> None:
    made = record()
    for result in made["results"]:
        del result["area_um2"], result["energy_pj_per_element"]
    sentences = advice(read_variants(made))
    assert [sentence.partition(":")[0] for sentence in sentences] == ["For a model, in floating point"]


def test_training_is_not_mentioned_without_training() -> None:
    made = record()
    for result in made["results"]:
        result["trained_steps"] = 0
    (sentence,) = [sentence for sentence in advice(read_variants(made)) if sentence.startswith("For a model")]
    assert "with training" not in sentence
    assert "seed" not in sentence
