"""What the page says of silicon: the Pareto front, its picture, and the papers' figures beside ours."""

from __future__ import annotations

from typing import Any

import pytest

from softmaxkit.methods import METHODS
from softmaxkit.report.methods import read_methods
from softmaxkit.report.papers import against_papers, sources
from softmaxkit.report.record import Variant
from softmaxkit.report.trade_off import pareto_front, points, trade_off

KNOWN = read_methods({"methods": {name: spec.about() for name, spec in METHODS.items()}}, [*METHODS, "a", "b"])


def variant(method: str, energy: float | None, loss: float, name: str = "", **more: Any) -> Variant:
    figures: dict[str, Any] = {"loss_change_percent": loss}
    if energy is not None:
        figures |= {
            "cells": "sky130",
            "area_um2": 1000 * energy,
            "energy_pj_per_element": energy,
            "fmax_mhz": 250.0,
        }
    figures |= more
    return Variant(KNOWN[method], name, {"integer": figures})


VARIANTS = [
    variant("exact", 64.0, 0.01),
    variant("consmax", 10.0, 3.0),
    variant("softermax", 20.0, 1.0),
    variant("exaq", 30.0, 2.0, "2 bits"),
    variant("exaq", None, 0.5, name="3 bits"),
]


def test_front_is_of_points_that_none_beats() -> None:
    synthesised = points(VARIANTS)
    assert [point.variant.method.name for point in synthesised] == ["exact", "consmax", "softermax", "exaq"]
    front = pareto_front(synthesised)
    assert [point.variant.method.name for point in front] == ["consmax", "softermax", "exact"]
    for point in synthesised:
        beaten = any(
            (other.energy < point.energy and other.loss <= point.loss)
            or (other.energy <= point.energy and other.loss < point.loss)
            for other in synthesised
        )
        assert beaten == (point not in front)


def test_front_of_equal_points_has_one() -> None:
    same = points([variant("a", 1.0, 1.0), variant("b", 1.0, 1.0)])
    assert len(pareto_front(same)) == 1


def test_picture_has_each_point() -> None:
    figure = trade_off(VARIANTS)
    assert figure is not None
    solid = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.x[0] for trace in solid] == [64.0, 10.0, 20.0, 30.0]
    assert "+1.00%" in solid[2].text
    assert trade_off(VARIANTS[-1:]) is None


def test_ratios_of_the_papers_beside_ours() -> None:
    lines = {line.what: tuple(line.cells) for line in against_papers(VARIANTS)}
    assert lines["Softermax over ConSmax, area"] == ("2.2×", "2×")
    assert lines["Softermax over ConSmax, energy"] == ("4.4×", "2×")
    assert lines["ConSmax, energy of one score"] == ("16.7 pJ", "10 pJ")
    assert len(lines) == 3 * 3 + 2 * 2
    assert [what for what in lines if what.endswith(", area")][:3] == [
        "ConSmax, area",
        "Softermax, area",
        "softmax (FP16, DesignWare), area",
    ]
    assert sources(VARIANTS) == "arXiv 2402.10930, table of results, rows of 256 scores"


@pytest.mark.parametrize("left", [VARIANTS[:1], VARIANTS[3:], []])
def test_nothing_is_compared_where_there_are_no_two(left: list[Variant]) -> None:
    assert against_papers(left) == []


def test_another_process_is_not_compared() -> None:
    others = [variant(method, 5.0, 1.0, cells="asap7") for method in ("consmax", "softermax", "exact")]
    assert against_papers(others) == []
