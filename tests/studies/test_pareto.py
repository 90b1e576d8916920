"""The main forms at their operating points: measurement, caching, and the tables in the docs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softmaxkit.files import write_text
from softmaxkit.methods import ALL_METHODS, method_class
from softmaxkit.report.silicon import operating_points, parts
from softmaxkit.studies import pareto as study
from softmaxkit.studies.pareto import operating_points as points_of
from softmaxkit.studies.pareto import pareto
from softmaxkit.studies.silicon import SynthesisOptions, UnitToMap

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "results" / "silicon"
FORMS = [form for name in ("consmax", "exaq") for form in method_class(name).forms()]


def stage(title: str) -> Callable[[int, int], None]:
    return lambda done, total: None


def test_three_clocks_with_one_lane_and_one_clock_with_more() -> None:
    assert points_of(8.0) == [(1, 12.0), (1, 8.0), (1, 5.0), (4, 8.0), (16, 8.0)]
    assert points_of(1.0, 8) == [(1, 1.5), (1, 1.0), (1, 0.625), (4, 1.0)]


@pytest.mark.slow
def test_finished_netlists_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTMAXKIT_CACHE", str(tmp_path / "cache"))
    measured: list[tuple[str, int, float | None, str]] = []

    def measure(units: list[UnitToMap], options: SynthesisOptions, *rest: Any) -> dict[str, Any]:
        (unit,) = units
        if len(measured) == stop_after:
            raise KeyboardInterrupt
        measured.append((unit.title, unit.unit.lanes, options.clock, unit.unit.storage))
        figures = {"method": unit.spec.method, "form": unit.title, "area_um2": float(len(measured)), "longest_path": []}
        return {"results": [figures]}

    monkeypatch.setattr(study, "synthesize_units", measure)
    options = SynthesisOptions({"lanes": 16, "max_row": 32, "depth": None, "storage": "flip-flops"})
    stop_after = 7
    with pytest.raises(KeyboardInterrupt):
        pareto(FORMS, options, [], stage, print)
    stop_after = -1
    record = pareto(FORMS, options, [], stage, print)
    main = [form for form in FORMS if form.main]
    assert 0 < len(main) < len(FORMS)
    assert len(measured) == len(record["results"]) == 5 * len(main)
    assert [result["area_um2"] for result in record["results"]] == [*range(1, len(measured) + 1)]
    assert "longest_path" not in record["results"][0]
    assert {storage for *_, storage in measured} == {"latches", "memory"}
    assert {(lanes, clock) for _, lanes, clock, _ in measured} == {*points_of(8.0)}
    pareto(FORMS, options, [], stage, print)
    assert len(measured) == 5 * len(main)
    # A changed flow is measured again.
    (tmp_path / "new.py").write_text("changed = True\n")
    monkeypatch.setattr(study, "_flow", lambda: [tmp_path / "new.py"])
    pareto(FORMS[:1], options, [], stage, print)
    assert len(measured) == 5 * len(main) + 5


def records(pattern: str) -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in sorted(RECORDS.glob(pattern))]


@pytest.mark.parametrize("path", records("pareto-*.json"))
def test_docs_have_the_operating_points_of_the_records(path: Path) -> None:
    record = json.loads(path.read_text())
    docs = (ROOT / "docs" / "silicon.md").read_text()
    assert "\n".join(operating_points(record)) in docs
    assert shlex.join(record["command"]) in docs
    forms = [form for name in ALL_METHODS for form in method_class(name).forms() if form.main]
    most = max(record["inputs"]["lanes"])
    assert len(record["results"]) == len(points_of(8.0, most)) * len(forms)
    assert all(result["mismatches"] == 0 < result["compared"] for result in record["results"])


def test_the_readme_has_rows_of_the_record() -> None:
    lines = [*operating_points(json.loads((RECORDS / "pareto-sky130.json").read_text()))]
    readme = (ROOT / "README.md").read_text()
    head, rule, *rows = lines
    assert f"{head}\n{rule}\n" in readme
    assert sum(row in readme for row in rows) >= 8
    shown = readme[readme.index(head) :].split("\n\n")[0].splitlines()
    assert set(shown) <= set(lines)


def test_the_readme_has_the_recommendation_for_smollm2() -> None:
    record = json.loads((ROOT / "results" / "smollm2" / "recommend.json").read_text())
    readme = (ROOT / "README.md").read_text()
    for result in record["results"]:
        if result["method"] != "exact":
            assert f"{result['area_um2']:,.0f} µm² and {result['energy_pj_per_element']:.1f} pJ" in readme


def test_docs_have_the_parts_of_the_record() -> None:
    record = json.loads((RECORDS / "sky130.json").read_text())
    assert "\n".join(parts(record)) in (ROOT / "docs" / "silicon.md").read_text()


def test_docs_have_the_costs_of_the_rivals() -> None:
    docs = [(ROOT / "docs" / name).read_text() for name in ("silicon.md", "accuracy.md")]
    for path in (ROOT / "results" / "rivals").glob("*.json"):
        record = json.loads(path.read_text())
        if record["command"][:2] == ["softmaxkit", "synth"]:
            _, _, *rows = parts(record)
            assert set(rows) <= set(docs[0].splitlines())
            area, energy = (rows[0].split(" | ")[column] for column in (1, 5))
            assert f" | {area} | {energy} |\n" in docs[1]


def test_a_wrong_table_is_detected(tmp_path: Path) -> None:
    record = json.loads((RECORDS / "sky130.json").read_text())
    write_text(tmp_path / "docs.md", "\n".join(parts(record)))
    record["results"][0]["fmax_mhz"] += 10
    assert "\n".join(parts(record)) not in (tmp_path / "docs.md").read_text()
