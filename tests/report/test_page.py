"""The page: self-contained, escaped, and robust against records with missing or unknown parts."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from page_records import result, silicon, small_record

from softmaxkit.report import render
from softmaxkit.report.study import render_study


@pytest.fixture
def record() -> dict[str, Any]:
    return small_record()


def figures(page: str) -> dict[str, Any]:
    scripts = re.findall(r'<script type="application/json" id="([^"]+)-figure">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text) for name, text in scripts}


def sections(page: str) -> set[str]:
    """Return the names of the charts, some of which have a panel per variant."""
    return {name.partition("-")[0] for name in figures(page)}


def test_the_page_is_whole_and_loads_nothing(record: dict[str, Any]) -> None:
    page = render(record)
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert not re.search(r'<(?:script|img|link|iframe)[^>]+(?:src|href)\s*=\s*["\']?(?:https?:)?//', page)
    assert page.count("Plotly.react(") >= 1


def test_finding_and_table_contain_the_figures(record: dict[str, Any]) -> None:
    page = render(record)
    assert "Softermax has the lowest loss measured: 1.7209 nats" in page
    for text in ("1.7570", "+2.15%", "3 bits, searched clip", "from scratch", "EXAQ"):
        assert text in page
    assert len(re.findall(r'<tr class="[^"]*best', page)) == 1
    assert re.search(r'<tr class="[^"]*best[^"]*">.{0,400}Softermax', page, re.DOTALL)


def test_the_page_has_the_claims_if_there_are_any(record: dict[str, Any]) -> None:
    claim = {"method": "exaq", "id": "exaq-9", "source": "a paper", "claim": "It is <fast>.", "published": "twice"}
    judged = claim | {"measured": "1.4 times", "verdict": "not reproduced", "why": "", "records": {}}
    page = render(record, {"inputs": {"records": "results"}, "results": [judged]})
    assert "1 claim: 1 not reproduced, judged by the records in <code>results</code>" in page
    for text in ("exaq-9", "It is &lt;fast&gt;.", "twice", "1.4 times"):
        assert text in page
    assert "What the papers claim" not in render(record)


def test_every_chart_is_there_and_vanishes_with_its_data(record: dict[str, Any]) -> None:
    assert len(sections(render(record))) == 4
    for part, left in (("training", 3), ("function", 3), ("error", 3)):
        less = copy.deepcopy(record)
        for entry in less["results"]:
            del entry["series"][part]
        assert len(sections(render(less))) == left
    for entry in record["results"]:
        del entry["series"]
    assert len(sections(render(record))) == 1


def test_text_of_the_record_is_escaped(record: dict[str, Any]) -> None:
    evil = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'
    record["results"].append(result("exaq", evil, "integer", 2.0))
    record["inputs"]["text"]["name"] = evil
    record["command"].append(evil)
    page = render(record)
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert len(sections(page)) == 4


def test_missing_and_odd_figures_do_not_break_it(record: dict[str, Any]) -> None:
    record["results"][2]["loss_nats"] = None
    del record["results"][3]["perplexity"]
    record["results"][4]["row_sum_mean"] = float("nan")
    record["results"][5]["series"]["error"]["mean_absolute_error"] = [float("inf"), None, 0.0]
    record["results"][6]["novelty"] = {"deep": 1}
    page = render(record)
    assert "–" in page
    assert figures(page)
    for name, figure in figures(page).items():
        assert "NaN" not in json.dumps(figure), name


def test_an_unknown_method_and_later_columns_appear(record: dict[str, Any]) -> None:
    assert "Area, µm²" not in render(record)
    record["results"].append(result("powermax", "one table", "integer", 1.8, area_um2=4846.4, **silicon(9.0)))
    page = render(record)
    for text in ("powermax", "one table", "Area, µm²", "4,846", "Energy, pJ"):
        assert text in page


POWERMAX = {
    "title": "PowerMax",
    "colour": "#123456",
    "baseline": False,
    "published": [
        {
            "title": "PowerMax unit",
            "process": "sky130",
            "tools": "open",
            "area_um2": 9000,
            "fmax_mhz": 300,
            "power_mw": 1.0,
            "energy_pj": 5.0,
            "source": "a paper",
        }
    ],
}


def test_an_unknown_method_is_shown_by_its_metadata(record: dict[str, Any]) -> None:
    unit = {"area_um2": 4500.0, "fmax_mhz": 250.0, **silicon(9.0)}
    record["results"] = [
        result("plain", "", "float", 1.72),
        result("powermax", "", "integer", 1.8, **unit),
        result("plain", "", "integer", 1.73, **unit),
    ]
    plain = {"title": "Plain", "colour": "", "baseline": True, "published": POWERMAX["published"]}
    record["methods"] = {"powermax": POWERMAX, "plain": plain}
    page = render(record)
    assert "In exact integers, PowerMax has a loss of 1.8000 nats" in page
    for text in ("<b>PowerMax</b>", "<b>Plain</b>", "background: #123456", "PowerMax unit, area", "(a paper)"):
        assert text in page
    assert "powermax" not in page[: page.index('id="provenance"')]
    panels = [figure for name, figure in figures(page).items() if name.startswith("function-")]
    traces = [trace for panel in panels for trace in panel["data"]]
    assert [trace["line"]["color"] for trace in traces if trace["name"] == "integer"] == ["#7d8791", "#123456"]


def test_a_record_that_does_not_describe_its_methods_is_shown_by_their_names(record: dict[str, Any]) -> None:
    del record["methods"]
    page = render(record)
    assert (
        "softermax has the lowest loss measured: 1.7209 nats" in page
    )  # not exact: it is the first, hence the baseline
    assert "<b>consmax</b>" in page
    assert len(sections(page)) == 4
    traces = figures(page)["training"]["data"]
    colours = dict.fromkeys(trace["line"]["color"] for trace in traces if trace["mode"] == "lines")
    assert list(colours) == ["#7d8791", "#cc79a7", "#e69f00", "#56b4e9"]


@pytest.mark.parametrize(
    "methods", [None, [], {"exaq": None}, {"exaq": {"title": None, "colour": "red; x: url(//x)", "published": [1]}}]
)
def test_odd_descriptions_of_methods_do_not_break_it(record: dict[str, Any], methods: Any) -> None:
    page = render({**record, "methods": methods})
    assert "<b>exaq</b>" in page
    assert "url(//x)" not in page


@pytest.mark.parametrize("described", [True, False])
def test_a_study_is_drawn_against_its_baseline(described: bool) -> None:
    results = [
        {**result(method, "", "integer", loss), "seed": 0, "settings": {"recipe.steps": steps}}
        for method, loss in (("plain", 1.72), ("powermax", 1.8))
        for steps in (4, 8)
    ]
    config = {"y": "loss_change_percent"}
    inputs = {"study": "small", "question": "Is it?", "picture": config}
    record: dict[str, Any] = {"schema": 1, "inputs": inputs, "results": results}
    if described:
        results.reverse()
        record["methods"] = {"powermax": POWERMAX, "plain": {"title": "Plain", "baseline": True}}
    for x in ("recipe.steps", "step"):
        config["x"] = x
        names = {trace["name"] for trace in figures(render_study(record))["picture"]["data"]}
        assert {name.split()[0] for name in names} == {POWERMAX["title"] if described else "powermax"}
        assert "One seed, so small differences may be chance." in render_study(record)
    for result_of_seed in results[:2]:
        result_of_seed["seed"] = 1
    assert "Means over seeds ± standard deviation." in render_study(record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2, but this report reads schema 1"),
        ({"schema": None}, "no schema"),
        ({"schema": True}, "schema True, but this report reads schema 1"),
        ({"schema": 1.0}, "schema 1.0, but this report reads schema 1"),
        ({"results": []}, "at least one result"),
        ({"results": [{"mode": "float"}]}, "has method None"),
        ({"results": [{"method": "exact", "mode": "int"}]}, "'float' or 'integer'"),
    ],
)
def test_an_invalid_record_is_refused(record: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        render({**record, **change})
    assert "\n" not in str(raised.value)
