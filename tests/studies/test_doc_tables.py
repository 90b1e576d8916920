"""Every table of figures in README and docs is held to a record or to a computation."""

from __future__ import annotations

import re

import pytest

from doc_tables import ROOT

FIGURE = re.compile(r"[+-]?[\d.,]+ ?(%|x)?( [^|]{1,12})?|\*\*[+-]?[\d.,]+%\*\*|[\d.,]+%?,? .{0,24}")
HELD_ELSEWHERE = {
    "| unit | lanes |": "tests/studies/test_pareto.py",
    "| unit | area, µm² | tables |": "tests/studies/test_pareto.py",
    "| ratio | paper: area |": "test_doc_silicon.py, as a whole",
}


def tables_of_figures() -> list[str]:
    """Return the first lines of the tables in README and docs of which half of the cells or more are figures."""
    heads = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in page.read_text(encoding="utf-8").split("\n\n"):
            lines = block.splitlines()
            if lines[:1] and lines[0].startswith("|"):
                cells = [cell.strip() for line in lines[2:] for cell in line.strip("|").split("|")[1:]]
                if 2 * sum(FIGURE.fullmatch(cell) is not None for cell in cells) >= sum(map(bool, cells)):
                    heads.append(lines[0])
    return heads


def test_every_table_of_figures_is_held_to_something() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    begun = {*HELD_ELSEWHERE, *(head for text in sources for head in re.findall(r'"(\| [^"]*)"', text))}
    heads = tables_of_figures()
    assert len(heads) > 40
    assert [head for head in heads if not head.startswith(tuple(begun))] == []
    assert [head for head in HELD_ELSEWHERE if not any(title.startswith(head) for title in heads)] == []


@pytest.mark.parametrize("page", ["accelerator", "silicon", "speed"])
def test_figures_in_brief_are_those_of_the_page(page: str) -> None:
    before, brief, after = re.split(
        r"## In brief\n(.*?)(?=\n## )", (ROOT / f"docs/{page}.md").read_text(), flags=re.DOTALL
    )
    figures = re.findall(r"\d+\.\d{2}|\d+,\d{3}|\d+\.\d%|\d{3} µm²|\d{2}%", brief)
    assert figures
    assert [figure for figure in figures if figure not in before + after] == []
