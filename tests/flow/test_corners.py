"""Other corners of a cell library: read and checked before anything is mapped, and what a netlist reaches there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from netlists import PREFIX, hand_netlist

from softmaxkit.cli import main
from softmaxkit.engine import synthesize as engine_synthesis
from softmaxkit.flow import mapping, synthesize
from softmaxkit.flow.cells.liberty import LibertyError
from softmaxkit.flow.cells.library import Arc, Library
from softmaxkit.flow.cells.processes import library_of
from softmaxkit.flow.cells.table import Table
from softmaxkit.flow.cells.writing import to_liberty
from softmaxkit.flow.corners import at_corners, read_corners
from softmaxkit.flow.simulate import can_verilate
from softmaxkit.flow.timing import analyse

tools = pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")
SKY130 = library_of("sky130")
FEW = replace(SKY130, cells={name: cell for name, cell in SKY130.cells.items() if "inv_" in name})
"""Few of the cells, which are read and written sooner; the command line has the whole library."""


def slow(library: Library) -> Library:
    """Return a library whose delays are doubled."""

    def doubled(table: Table) -> Table:
        return Table(table.slews, table.loads, 2 * table.values)

    def arc(arc: Arc) -> Arc:
        return arc._replace(rise=doubled(arc.rise), fall=doubled(arc.fall))

    cells = {name: replace(cell, arcs=tuple(map(arc, cell.arcs))) for name, cell in library.cells.items()}
    return replace(library, name="slow", cells=cells)


def written(library: Library, file: Path) -> Path:
    file.write_text(to_liberty(library, analysis=True))
    return file


def test_a_netlist_at_a_slow_corner(tmp_path: Path) -> None:
    netlist = hand_netlist("a", "y", ["one inv_1 A=a Y=x", "two inv_1 A=x Y=y"]).netlist
    corners = read_corners([[written(slow(FEW), tmp_path / "slow.lib")]], FEW)
    (timing,) = at_corners(netlist, corners).values()
    assert [*corners] == ["slow"]
    assert corners["slow"].wire == SKY130.wire
    assert timing.period == pytest.approx(2 * analyse(netlist).period, rel=1e-3)


def test_corners_with_the_same_name_are_named_by_their_files(tmp_path: Path) -> None:
    files = [written(library, tmp_path / f"{place}.lib") for place, library in enumerate((FEW, slow(FEW)))]
    same = [file.with_stem(f"same-{file.stem}") for file in files]
    for file, copy in zip(files, same, strict=True):
        copy.write_text(file.read_text().replace(f"library ({FEW.name})", "library (slow)"))
    assert [*read_corners([[file] for file in files], FEW)] == [FEW.name, "slow"]
    assert [*read_corners([[file] for file in same], FEW)] == [*map(str, same)]


def test_a_corner_without_a_cell_gives_the_reason(tmp_path: Path) -> None:
    text = to_liberty(FEW, analysis=True)
    file = tmp_path / "corner.lib"
    file.write_text(text.replace(f"cell ({PREFIX}inv_1) {{", f"cell ({PREFIX}inv_1) {{ dont_use : true;"))
    with pytest.raises(LibertyError, match=r"corner.lib is no corner of .* lacks \w+__inv_1 \(left out for dont_use\)"):
        read_corners([[file]], FEW)


def halves(library: Library, folder: Path) -> list[Path]:
    """Write a library as two files."""
    cells, middle = list(library.cells.items()), len(library.cells) // 2
    parts = {"first": cells[:middle], "second": cells[middle:]}
    return [written(replace(library, cells=dict(part)), folder / f"{name}.lib") for name, part in parts.items()]


def test_a_corner_of_several_files(tmp_path: Path) -> None:
    files = halves(slow(FEW), tmp_path)
    assert read_corners([files], FEW)["slow"].cells.keys() == FEW.cells.keys()
    with pytest.raises(LibertyError, match=r"second.lib is no corner of .* and \d+ more; list all files of a corner"):
        read_corners([files[1:]], FEW)
    with pytest.raises(LibertyError, match=r"cell \w+ occurs twice; give other corners of a library with --corner"):
        read_corners([[*files, written(slow(FEW), tmp_path / "slow.lib")]], FEW)


DESIGNS = {
    "unit": ["consmax", "--constants", "baked"],
    "engine": ["engine", "--method", "consmax", "--rows", "2", "--columns", "2", "--keys", "8"],
    "verilog": ["--verilog", "FOLDER/top.v"],
}


@tools
@pytest.mark.parametrize("design", DESIGNS)
def test_corners_are_read_before_anything_is_mapped(
    design: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("mapped before the corners were read")

    for module in (mapping, synthesize, engine_synthesis):
        monkeypatch.setattr(module, "map_design", refused)
    (tmp_path / "top.v").write_text("module top (input a, output b); assign b = ~a; endmodule")
    bad = tmp_path / "bad.lib"
    bad.write_text("library (bad) { cell (INV) {")
    lacking = written(FEW, tmp_path / "lacking.lib")
    arguments = [argument.replace("FOLDER", str(tmp_path)) for argument in DESIGNS[design]]
    missing = next(name for name in SKY130.cells if name not in FEW.cells)
    refusals = {bad: "bad.lib, line", lacking: f"lacks {missing}", tmp_path / "no.lib": "no.lib"}
    for file, message in refusals.items():
        assert main(["synth", *arguments, "--corner", str(file)]) == 2
        assert message in capsys.readouterr().err


@tools
def test_synth_at_a_corner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "top.v"
    file.write_text("module top (input a, b, c, output d); assign d = a ^ b ^ c; endmodule")
    corner = ",".join(map(str, halves(slow(SKY130), tmp_path)))
    assert main(["synth", "--verilog", str(file), "--corner", corner, "--json", "-"]) == 0
    printed = capsys.readouterr()
    (result,) = json.loads(printed.out)["results"]
    reached = result["fmax_at_corners_mhz"]
    assert 0.4 * result["fmax_mhz"] < reached["slow"] < 0.6 * result["fmax_mhz"]
    assert f"top at slow: {reached['slow']:,.0f} MHz" in printed.err
