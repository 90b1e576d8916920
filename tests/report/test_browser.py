"""The page in a browser: widths, label placement, colour schemes, tables as text."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser
from markdown_it import MarkdownIt
from page_records import result, silicon, small_record

from softmaxkit.report import render
from softmaxkit.report.style import DARK_COLOURS, TEXT_COLOUR

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

WIDTHS = (390, 768, 1400, 1920)
EVIL = r'50% of $x_1$ & #2 {a|b} \ ^~<b>*"q"* [1], `c`'

Box = dict[str, float]


def crowded_record() -> dict[str, Any]:
    """Return a record with spreads, and with points that are close together or coincide."""
    record = small_record()
    record["results"] += [
        result("exaq", name, mode, loss)
        for name, loss in (("3 bits, gaussian clip", 1.7233), ("4 bits, searched clip", 1.7233), (EVIL, 1.73))
        for mode in ("float", "integer")
    ]
    for place, entry in enumerate(record["results"]):
        entry.update(
            **silicon(20.0 + place // 4 % 2),
            area_um2=12345.6,
            memory_energy_pj_per_element=5.0,
            fmax_mhz=200.0,
            seeds=[0, 1],
            loss_nats_spread=0.01,
            loss_change_percent_spread=0.02,
            speedup_over_torch=1.5,
            speedup_over_torch_low=1.25,
            speedup_over_torch_high=1.75,
        )
    return record


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("browser")
    page = folder / "page.html"
    page.write_text(render(crowded_record()), encoding="utf-8")
    with Browser(folder) as browser:
        browser.open(page, 1400)
        yield browser


def resized(tab: Browser, width: int) -> None:
    tab.resize(width)
    tab.run("new Promise((done) => requestAnimationFrame(() => setTimeout(() => setTimeout(done, 0), 150)))")


def boxes(tab: Browser, selector: str) -> list[Box]:
    measure = "((r) => ({x: r.x, y: r.y, width: r.width, height: r.height}))(e.getBoundingClientRect())"
    rectangles: list[Box] = tab.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => {measure})")
    return rectangles


def intersect(one: Box, other: Box) -> bool:
    return all(
        one[at] < other[at] + other[size] and other[at] < one[at] + one[size]
        for at, size in (("x", "width"), ("y", "height"))
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_and_no_labels_overlap(tab: Browser, width: int) -> None:
    resized(tab, width)
    assert tab.run("document.documentElement.scrollWidth") <= width
    for chart in ("trade_off", "loss_change"):
        labels = boxes(tab, f"#{chart} .annotation-text-g text")
        assert len(labels) == 8
        assert not [pair for pair in combinations(labels, 2) if intersect(*pair)], chart
        around = boxes(tab, f"#{chart} .plot")[0]
        for label in labels:
            assert label["x"] >= around["x"] - 1
            assert label["x"] + label["width"] <= around["x"] + around["width"] + 1, chart
    points = boxes(tab, "#trade_off .scatterlayer .points path.point")
    labels = boxes(tab, "#trade_off .annotation-text-g text")
    assert len(points) == 8
    assert any(intersect(*pair) for pair in combinations(points, 2))  # crowded, so that the test means something
    assert not [label for label in labels for point in points if intersect(point, label)]


def test_the_row_memory_can_be_left_out(tab: Browser) -> None:
    resized(tab, 1400)
    energies = "document.querySelector('#trade_off .plot').data.filter((t) => t.mode === 'markers').map((t) => t.x[0])"
    counted = tab.run(energies)
    tab.run("document.querySelector('#trade_off input[value$=without-figure]').click()")
    left_out = tab.run(energies)
    assert [a - b for a, b in zip(counted, left_out, strict=True)] == pytest.approx([5.0] * len(counted))
    labels = boxes(tab, "#trade_off .annotation-text-g text")
    assert not [pair for pair in combinations(labels, 2) if intersect(*pair)]
    tab.run("document.querySelector('#trade_off input[value=trade_off-figure]').click()")
    assert tab.run(energies) == counted


def test_a_dark_scheme_recolours_page_and_charts_but_not_prints(tab: Browser) -> None:
    resized(tab, 1400)
    charts = "JSON.stringify([...document.querySelectorAll('.plot')].map((e) => [e.layout, e.data]))"
    paper = "getComputedStyle(document.body).backgroundColor"
    light_paper, light_charts = tab.run(paper), tab.run(charts)
    assert all(colour in light_charts for colour in DARK_COLOURS)
    try:
        tab.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        resized(tab, 1400)
        dark_charts = tab.run(charts)
        assert tab.run(paper) == "rgb(20, 24, 28)"
        assert not [colour for colour in DARK_COLOURS if colour in dark_charts]
        assert all(colour in dark_charts for colour in DARK_COLOURS.values())
        tab.run("window.dispatchEvent(new Event('beforeprint'))")
        assert DARK_COLOURS[TEXT_COLOUR] not in tab.run(charts)
        tab.run("window.dispatchEvent(new Event('afterprint'))")
        assert tab.run(charts) == dark_charts
    finally:
        tab.send("Emulation.setEmulatedMedia", features=[])
    resized(tab, 1400)
    assert (tab.run(paper), tab.run(charts)) == (light_paper, light_charts)


def test_sentences_of_the_note_are_apart(tab: Browser) -> None:
    note = tab.run("document.querySelector('#results .note').textContent.replace(/\\s+/g, ' ')")
    assert "lowest loss measured. ± is the standard deviation" in note


def test_a_table_scrolls_in_its_box_with_a_hint(tab: Browser) -> None:
    resized(tab, 390)
    box = "document.querySelector('#results .wide')"
    assert tab.run(f"{box}.scrollWidth > {box}.clientWidth")
    assert tab.run("document.querySelector('#results .hint').getBoundingClientRect().height > 10")
    before = boxes(tab, "#results tbody th")[0]
    tab.run(f"new Promise((done) => {{ {box}.scrollLeft = 200; setTimeout(done, 100); }})")
    assert boxes(tab, "#results tbody th")[0] == before
    assert before["width"] < 150
    tab.run(f"{box}.scrollLeft = 0")
    resized(tab, 1920)
    assert tab.run("document.querySelector('#results .hint').hidden")


def test_a_phone_gets_large_targets_and_one_column_of_panels(tab: Browser) -> None:
    resized(tab, 390)
    for size in boxes(tab, "#results button, #function fieldset label"):
        assert min(size["width"], size["height"]) >= 44
    panels = boxes(tab, "#function .plot")
    assert len({panel["x"] for panel in panels}) == 1
    assert panels[0]["width"] > 340
    smallest = tab.run(
        "Math.min(...[...document.querySelectorAll('body *')].filter((e) => e.getClientRects().length && "
        "[...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) && !e.closest('sup, script, style'))"
        ".map((e) => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 12 * 0.7  # exponents of powers of ten; all other text has 12 pixels
    resized(tab, 1400)
    assert len({panel["x"] for panel in boxes(tab, "#function .plot")}) == 3


@pytest.mark.parametrize("width", [300, 640, pytest.param(1280, marks=pytest.mark.slow)])
def test_labels_of_random_points_do_not_overlap(tab: Browser, width: int) -> None:
    chance = random.Random(width)
    for count in (2, 9, 30):
        spread = chance.choice((0.01, 0.3, 1.0))  # clustered or spread out
        labels = [
            {
                "x": spread * chance.random(),
                "y": spread * chance.random(),
                "title": "EXAQ",
                "name": "x" * chance.randrange(60),
                "colour": "red",
            }
            for _ in range(count)
        ]
        layout = {
            "width": width,
            "height": 480,
            "margin": {"l": 60, "r": 10, "t": 10, "b": 40},
            "font": {"family": "sans-serif"},
            "xaxis": {"range": [-0.1, 1.1]},
            "yaxis": {"range": [-0.1, 1.1]},
        }
        line = {"x": [0.1, 0.5, 0.9], "y": [0.9, 0.5, 0.1]}
        call = f"labelled({json.dumps(layout)}, {json.dumps(labels)}, {json.dumps(line)})"
        placed = tab.run(call)
        assert len(placed["annotations"]) == count
        area = (width - 70, placed["height"] - 50)
        fit = f"fitted(label, 'sans-serif', {area[0]} - 6)"
        widths = tab.run(f"{json.dumps(labels)}.map((label) => textWidth({fit}, 'sans-serif'))")
        rectangles = []
        for label, size, note in zip(labels, widths, placed["annotations"], strict=True):
            right, down = (note["ax"], note["ay"]) if note["showarrow"] else (note["xshift"], -note["yshift"])
            x = (label["x"] + 0.1) / 1.2 * area[0] + right - size / 2
            y = (1.1 - label["y"]) / 1.2 * area[1] + down - 8
            rectangles.append({"x": x, "y": y, "width": size, "height": 16})
            assert x >= 0
            assert x + size <= area[0]
        assert not [pair for pair in combinations(rectangles, 2) if intersect(*pair)]
        assert tab.run(call) == placed


def text_of(tab: Browser, table: str, kind: str) -> str:
    text: str = tab.run(f"FORMATS.{kind}.write(document.getElementById('{table}-table'))")
    return text


def test_csv_has_the_records_figures(tab: Browser) -> None:
    rows = list(csv.DictReader(io.StringIO(text_of(tab, "results", "csv"), newline="")))
    results = [entry for entry in crowded_record()["results"] if entry["mode"] == "integer"]
    assert len(rows) == len(results)
    assert rows[0].keys() >= {"loss_nats_float", "loss_change_percent_spread_integer", "row_sum_min", "seeds"}
    assert {float(row["loss_nats_integer"]) for row in rows} == {entry["loss_nats"] for entry in results}
    assert [row["variant"] for row in rows][-1] == EVIL
    papers = list(csv.reader(io.StringIO(text_of(tab, "papers", "csv"), newline="")))
    assert papers[0] == ["figure", "unit", "paper", "ours"]
    assert float(papers[1][3]) == 12345.6


def cells_of(markdown: str) -> list[list[str]]:
    """Return the cells of a Markdown table as text."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            assert {child.type for child in token.children or ()} <= {"text", "text_special"}, token.content
            rows[-1].append("".join(child.content for child in token.children or ()))
    return rows


def test_markdown_equals_the_table(tab: Browser) -> None:
    head, *rows = cells_of(text_of(tab, "results", "markdown"))
    assert head[:4] == ["Method", "Loss, nats, float", "Loss, nats, integer", "Change in loss, float"]
    assert len(rows) == 8
    assert {len(row) for row in rows} == {len(head)}
    assert rows[0][:3] == ["Exact", "1.7200 ± 0.0100", "1.7200 ± 0.0100"]
    assert rows[-1][0] == f"EXAQ {EVIL}"
    assert "1.50× (1.25× to 1.75×)" in rows[0]
    assert cells_of(text_of(tab, "inputs", "markdown"))[1] == ["text name", "a b.txt"]


def test_latex_is_escaped_and_has_as_many_columns_everywhere(tab: Browser) -> None:
    text = text_of(tab, "results", "latex")
    assert (
        r"EXAQ 50\% of \$x\_1\$ \& \#2 \{a\textbar{}b\} \textbackslash{} \textasciicircum{}\textasciitilde{}"
        r'\textless{}b\textgreater{}{*}"q"{*} {[}1{]}, `c` & 1.7300 $\pm$ 0.0100 &'
    ) in text
    assert text.isascii()
    lines = text.splitlines()
    columns = len(lines[1].removeprefix(r"\begin{tabular}{").removesuffix("}"))
    assert lines[1] == r"\begin{tabular}{l" + "r" * (columns - 1) + "}"
    assert r"\multicolumn{2}{c}{Loss, nats} & \multicolumn{2}{c}{Change in loss}" in lines[3]
    assert lines[4].startswith(r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}")
    for line in lines:
        if line.endswith(r"\\"):
            spanned = line.count(r"\multicolumn{2}")
            assert line.replace(r"\&", "").count("&") + 1 + spanned == columns, line
    assert r"text name & a b.txt \\" in text_of(tab, "inputs", "latex")


def test_buttons_copy_and_download(tab: Browser, tmp_path: Path) -> None:
    resized(tab, 1400)
    copied = (
        "new Promise((done) => { navigator.clipboard.writeText = async (text) => done(text);"
        "document.querySelector('[data-export=\"results-table\"] [data-verb=copy][data-format=latex]').click(); })"
    )
    assert tab.run(copied) == text_of(tab, "results", "latex")
    said = "document.querySelector('[data-export=\"results-table\"] output').textContent"
    assert tab.run(f"new Promise((done) => setTimeout(() => done({said}), 50))") == "LaTeX copied"

    refused = (
        "new Promise((done) => { navigator.clipboard.writeText = async () => { throw new Error('no'); };"
        "document.execCommand = () => { done(document.activeElement.value); return true; };"
        "document.querySelector('[data-export=\"papers-table\"] [data-verb=copy][data-format=csv]').click(); })"
    )
    assert tab.run(refused).splitlines() == text_of(tab, "papers", "csv").splitlines()

    tab.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    tab.run("document.querySelector('[data-verb=download][data-format=csv]').click()")
    saved = tmp_path / "softmaxkit-results.csv"
    tab.run("new Promise((done) => setTimeout(done, 300))")
    assert (
        saved.read_text(encoding="utf-8", newline="")
        if False
        else saved.read_bytes().decode() == text_of(tab, "results", "csv")
    )


def test_scales_and_names_of_lines_change_the_charts(tab: Browser) -> None:
    resized(tab, 1400)
    kinds = "[...document.querySelectorAll('#error .plot')].map((plot) => plot._fullLayout.yaxis2.type)"
    assert set(tab.run(kinds)) == {"log"}
    tab.run("document.querySelector('#error [value=linear]').click()")
    assert set(tab.run(kinds)) == {"linear"}
    ranges = "[...document.querySelectorAll('#error .plot')].map((plot) => plot._fullLayout.yaxis2.range)"
    assert len({tuple(ends) for ends in tab.run(ranges)}) == 1

    lines = "document.querySelectorAll('#training .scatterlayer .trace').length"
    before = tab.run(lines)
    tab.run("document.querySelector('#training .legend button').click()")
    assert tab.run(lines) == before - 4  # line and dots, in two modes
    tab.run("document.querySelector('#training .legend button').click()")
    assert tab.run(lines) == before
