"""Silicon figures on the page: the Pareto front, its chart, and the comparison with papers."""

from __future__ import annotations

from typing import Any

import pytest

from softmaxkit.methods import METHODS
from softmaxkit.report.methods import read_methods
from softmaxkit.report.papers import against_papers, sources
from softmaxkit.report.record import Variant
from softmaxkit.report.silicon import operating_points, parts
from softmaxkit.report.trade_off import has_memory, pareto_front, points, trade_off

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


def test_the_front_has_only_undominated_points() -> None:
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


def test_the_chart_has_every_point() -> None:
    figure = trade_off(VARIANTS)
    assert figure is not None
    solid = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.x[0] for trace in solid] == [64.0, 10.0, 20.0, 30.0]
    assert "+1.00%" in solid[2].text
    assert trade_off(VARIANTS[-1:]) is None


BAKED = {
    "form": "constants baked in",
    "area_um2": 4000.0,
    "energy_pj_per_element": 6.0,
    "energy_without_glitches_pj_per_element": 4.0,
    "energy_with_all_glitches_pj_per_element": 9.0,
    "memory_energy_pj_per_element": 0.0,
}
WAITING = {"memory_area_um2": 200_000.0, "memory_energy_pj_per_element": 30.0}


@pytest.mark.parametrize(("energies", "fixed"), [((25.0, 26.0), False), ((8.0, 40.0), True)])
def test_energies_close_together_still_have_ticks(energies: tuple[float, float], fixed: bool) -> None:
    figure = trade_off([variant(name, energy, 1.0) for name, energy in zip(("consmax", "exaq"), energies, strict=True)])
    assert figure is not None
    assert (figure.layout.xaxis.tickvals is not None) == fixed


def test_the_row_memory_is_included_or_not() -> None:
    variants = [variant("consmax", 10.0, 3.0, forms=[BAKED]), variant("exaq", 8.0, 2.0, "2 bits", **WAITING)]
    counted, left_out = points(variants), points(variants, memory=False)
    assert [(point.name, point.energy) for point in counted] == [
        ("", 10.0),
        ("constants baked in", 6.0),
        ("2 bits", 38.0),
    ]
    assert [point.energy for point in left_out] == [10.0, 6.0, 8.0]
    assert [point.area for point in counted] == [10_000.0, 4000.0, 208_000.0]
    assert [point.loss for point in counted] == [3.0, 3.0, 2.0]  # units of a variant have the same integers
    assert has_memory(variants)
    assert not has_memory(variants[:1])
    figure = trade_off(variants)
    assert figure is not None
    assert "memory included" in figure.layout.xaxis.title.text
    bars = [trace.error_x for trace in figure.data if trace.mode == "markers"]
    assert (bars[1].array[0], bars[1].arrayminus[0]) == (3.0, 2.0)
    assert [bar.visible for bar in bars] == [False, None, False]


def test_tables_of_a_record_have_a_row_for_a_netlist() -> None:
    common = {"method": "consmax", "variant": "", "clock_ns": 8.0, "fmax_mhz": 130.4, "area_um2": 1234.5}
    energies = {"energy_pj_per_element": 12.345, "energy_without_glitches_pj_per_element": 0.56789}
    results = [
        {**common, **energies, **WAITING, "form": form, "lanes": lanes} for lanes in (1, 4) for form in ("a", "b")
    ]
    record = {"methods": {"consmax": {"title": "ConSmax"}}, "results": results}
    head, rule, *rows = operating_points(record)
    assert {line.count("|") for line in (head, rule, *rows)} == {10}
    assert [row.split(" | ")[:2] for row in rows] == [[f"| ConSmax, {form}", lanes] for form in "ab" for lanes in "14"]
    assert rows[0] == "| ConSmax, a | 1 | 125 | 130 | 1,234 | 12.3 | 0.568 | 200,000 | 30.0 |"
    assert len(list(parts(record))) == 2 + 4


def test_ratios_of_the_papers_and_ours() -> None:
    lines = {line.what: tuple(line.cells) for line in against_papers(VARIANTS)}
    assert lines["Softermax over ConSmax, area"] == ("2.2×", "2×")
    assert lines["Softermax over ConSmax, energy"] == ("4.4×", "2×")
    assert lines["ConSmax, energy per score"] == ("16.7 pJ", "10 pJ")
    assert len(lines) == 3 * 3 + 2 * 2
    assert [what for what in lines if what.endswith(", area")][:3] == [
        "ConSmax, area",
        "Softermax, area",
        "softmax (FP16, DesignWare), area",
    ]
    assert sources(VARIANTS) == "arXiv 2402.10930, table of results, rows of 256 scores"


@pytest.mark.parametrize("left", [VARIANTS[:1], VARIANTS[3:], []])
def test_a_comparison_needs_two_units(left: list[Variant]) -> None:
    assert against_papers(left) == []


def test_another_process_is_not_compared() -> None:
    others = [variant(method, 5.0, 1.0, cells="asap7") for method in ("consmax", "softermax", "exact")]
    assert against_papers(others) == []
