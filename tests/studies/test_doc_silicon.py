"""Tables of docs/silicon.md and docs/hardware.md that `softmaxkit` does not write, against records and units."""

from __future__ import annotations

import json
from typing import Any

import pytest

from doc_tables import ROOT, results, rows, wrong
from softmaxkit import ConSmax, Exact, Exaq, Softermax
from softmaxkit.methods.base.spec import Spec
from softmaxkit.report.silicon import unit_title
from softmaxkit.studies.papers import lines

pytestmark = pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")


def test_ratios_of_the_papers() -> None:
    text = (ROOT / "docs" / "silicon.md").read_text(encoding="utf-8")
    assert "\n".join(lines(results("silicon/papers.json"))) in text


def placed(family: str) -> dict[str, dict[str, Any]]:
    """Return the results of all methods in a family of FPGAs by the titles of their units."""
    records = [json.loads(path.read_text()) for path in sorted((ROOT / "results" / "fpga").glob(f"*-{family}.json"))]
    return {unit_title(result, record["methods"]): result for record in records for result in record["results"]}


def test_fpgas() -> None:
    table = rows("docs/silicon.md", "| unit | ECP5: MHz | LUTs | registers | DSPs | block RAMs | iCE40: MHz |")
    ecp5, ice40 = placed("ecp5"), placed("ice40")
    assert sorted(name for name, *_ in table) == sorted(ecp5) == sorted(ice40)
    both = ("dsps", "block_rams")
    for name, *cells in table:
        figures = ["fmax_mhz", *(f"placed_{kind}" for kind in ("luts", "registers", *both))]
        assert wrong(cells[:5], [ecp5[name][figure] for figure in figures]) == [], name
        if "unplaced" in ice40[name]:
            assert cells[5:] == ["does not fit", "", "", ""]
        else:
            figures.remove("placed_registers")  # they are in the logic cells
            assert wrong(cells[5:], [ice40[name][figure] for figure in figures]) == [], name


SHELLS = {
    "Softermax, `--tkeep`": "softermax-tkeep",
    "Softermax, `--tags 4`": "softermax-tags",
    "Softermax, `--status`": "softermax-status",
    "Softermax, `--row-length`": "softermax-row-length",
    "Softermax, `--tkeep --row-length --status --axi-lite`": "softermax-all",
    "ConSmax, `--axi-lite`": "consmax-axi-lite",
    "ConSmax, `--axi-lite --read-back`": "consmax-read-back",
    "ConSmax, `--axi-lite --tags 4`": "consmax-tags",
}
SLICES = {
    "no slice": "no-slice",
    "`--register-slice scores`": "slice-scores",
    "`--register-slice both`": "slice-both",
}


@pytest.mark.parametrize(
    ("head", "records"), [("| shell | area, µm² | clock, MHz |", SHELLS), ("| ConSmax | area, µm² |", SLICES)]
)
def test_shells(head: str, records: dict[str, str]) -> None:
    """The slack of the second table is OpenSTA's and has no record."""
    table = rows("docs/hardware.md", head)
    assert [name for name, *_ in table] == [*records]
    for name, area, clock, *_ in table:
        (result,) = results(f"shell/{records[name]}.json")
        assert wrong([area, clock], [result["area_um2"], result["fmax_mhz"]]) == [], name


def test_the_clock_of_the_slices_is_one_that_none_meets() -> None:
    text = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    assert "--top softmaxkit_consmax_axi --clock 4 " in text
    (result,) = results("shell/slice-both.json")
    assert f"{1e3 / result['fmax_mhz']:.2f} ns are reached with both slices" in text
    for name in SLICES.values():
        (result,) = results(f"shell/{name}.json")
        assert (result["clock_ns"], result["clock_met"]) == (4.0, False), name


def test_sets_of_constants() -> None:
    table = rows("docs/hardware.md", "| area, µm² | 1 set | 2 sets | 4 sets |")
    for (name, *cells), method in zip(table, ("consmax", "exaq"), strict=True):
        areas = []
        for count in (1, 2, 4):
            (result,) = results(f"sets/{method}-{count}.json")
            areas.append(result["area_um2"] - result.get("area_row_buffer_um2", 0.0))
        assert wrong(cells, areas) == [], name


UNITS: dict[str, Spec] = {
    "Exact": Exact(),
    "Exact, online": Exact(schedule="online"),
    "ConSmax": ConSmax(),
    "ConSmax, 16 bits": ConSmax(bits=16),
    "Softermax": Softermax(),
    "Softermax, global maximum": Softermax(maximum="global"),
    "EXAQ, 2 bits": Exaq(bits=2),
    "EXAQ, 3 bits": Exaq(bits=3),
    "EXAQ, 4 bits": Exaq(bits=4),
}
LENGTHS = (1, 16, 64, 256)


@pytest.mark.parametrize(("head", "lanes"), [("| unit | depth | 1 score |", 16), ("| EXAQ, 1 lane | depth |", 1)])
def test_cycles(head: str, lanes: int) -> None:
    table = rows("docs/hardware.md", head)
    assert len(table) == (len(UNITS) if lanes == 16 else 3)
    for name, *cells in table:
        spec = UNITS[name] if lanes == 16 else Exaq(bits=int(name.split()[0]))
        unit = spec.unit(lanes=lanes, constants=spec.examples()[0])
        assert cells == [str(unit.depth), *(f"{unit.latency(n)}, {unit.interval(n)}" for n in LENGTHS)], name
