"""The LibreLane configuration in a folder: variables of its schema, with the right types."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softmaxkit.flow.constraints import Constraints
from softmaxkit.flow.export import export
from softmaxkit.flow.rows import random_rows
from softmaxkit.flow.tools import find
from softmaxkit.methods import method_class
from softmaxkit.shell.options import ShellOptions

pytestmark = pytest.mark.skipif(find("yosys") is None, reason="needs Yosys")


SHELL = ShellOptions(keep=True, status=True)


def exported(storage: str, folder: Path, shell: ShellOptions | None = None) -> Path:
    spec = method_class("consmax")()
    unit = spec.unit(1, None, storage=storage, max_row=8)
    constants = spec.examples()[0]
    rows = random_rows(unit, constants, 20, np.random.default_rng(0))
    export(unit, "attention", folder, [(constants, rows)], Constraints(period=6.5), shell=shell)
    return folder / "librelane.json"


@pytest.mark.parametrize(
    ("storage", "shell"),
    [
        pytest.param("latches", SHELL, id="latches-shell"),
        pytest.param("flip-flops", None, id="flip-flops-unit"),
        pytest.param("latches", None, id="latches-unit", marks=pytest.mark.slow),
        pytest.param("flip-flops", SHELL, id="flip-flops-shell", marks=pytest.mark.slow),
    ],
)
def test_files_and_clock(storage: str, shell: ShellOptions | None, tmp_path: Path) -> None:
    path = exported(storage, tmp_path / "folder", shell)
    configuration = json.loads(path.read_text())
    assert configuration["CLOCK_PERIOD"] == 6.5
    named = [*configuration["VERILOG_FILES"], configuration["PNR_SDC_FILE"], configuration["SIGNOFF_SDC_FILE"]]
    assert all((path.parent / name.removeprefix("dir::")).is_file() for name in named)
    assert configuration["DESIGN_NAME"] == ("attention_axi" if shell else "attention")
    texts = [(path.parent / name.removeprefix("dir::")).read_text() for name in configuration["VERILOG_FILES"]]
    header = re.search(rf"^module {configuration['DESIGN_NAME']} ?\(([^)]*)\)", "".join(texts), re.MULTILINE)
    assert header is not None
    assert configuration["CLOCK_PORT"] in re.findall(r"\w+", header[1])
    defined = set(re.findall(r"^module (\w+)", "".join(texts), re.MULTILINE))
    assert set(re.findall(r"^  (attention\w*) \w+ \(", "".join(texts), re.MULTILINE)) <= defined
    assert f"set interface {configuration['DESIGN_NAME']} " in (path.parent / "attention.sdc").read_text()
    assert configuration.get("LINTER_ERROR_ON_LATCH", True) == (storage != "latches")


def with_macros(sram: str, folder: Path) -> Path:
    spec = method_class("exact")()
    unit = spec.unit(1, None, storage="memory", max_row=8)
    constants = spec.examples()[0]
    rows = random_rows(unit, constants, 20, np.random.default_rng(0))
    export(unit, "attention", folder, [(constants, rows)], sram=sram)
    return folder / "librelane.json"


@pytest.mark.parametrize("sram", ["sky130", "mine:16x16/4"])
def test_macros_are_placed_with_the_unit(sram: str, tmp_path: Path) -> None:
    """Every module below the top is in a file, except the macro, whose views are named."""
    path = with_macros(sram, tmp_path / "folder")
    configuration = json.loads(path.read_text())
    assert configuration["DESIGN_NAME"] == "attention_top"
    ((macro, views),) = configuration["MACROS"].items()
    files = [path.parent / name.removeprefix("dir::") for name in configuration["VERILOG_FILES"]]
    text = "".join(file.read_text() for file in files)
    defined = set(re.findall(r"^module (\w+)", text, re.MULTILINE))
    used = set(re.findall(r"^ +(\w+)(?: #\(.*\))? \w+ \($", text, re.MULTILINE)) - {"module"}
    assert {"attention_memory", "attention_axis", "attention"} <= used
    assert used - defined == {macro}
    assert (path.parent / views["vh"][0].removeprefix("dir::")).is_file()
    kinds = [*views["gds"], *views["lef"], *views["lib"]["*"]]
    assert [Path(file).suffix for file in kinds] == [".gds", ".lef", ".lib"]
    assert all(file.startswith("pdk_dir::libs.ref/" if sram == "sky130" else "dir::mine.") for file in kinds)


def load(path: Path, pdk_root: Path) -> Any:
    """Load a configuration with LibreLane itself, except for the variables of a process design kit."""
    config, flows = pytest.importorskip("librelane.config"), pytest.importorskip("librelane.flows")
    flow = flows.Flow.factory.get(json.loads(path.read_text())["meta"]["flow"])
    variables = [
        variable
        for variable in flow.get_all_config_variables(flow)
        if not variable.pdk or variable.name == "STD_CELL_LIBRARY"
    ]
    loaded, _ = config.Config.load(str(path), variables, pdk_root=str(pdk_root), _load_pdk_configs=False)
    return loaded


@pytest.mark.parametrize("shell", [None, SHELL], ids=["unit", "shell"])
def test_the_schema_accepts_it(shell: ShellOptions | None, tmp_path: Path) -> None:
    config = pytest.importorskip("librelane.config", reason="needs LibreLane")
    path = exported("latches", tmp_path / "folder", shell)
    loaded = load(path, tmp_path)
    assert loaded["CLOCK_PERIOD"] == Decimal("6.5")
    assert Path(loaded["SIGNOFF_SDC_FILE"]) == tmp_path / "folder" / "attention.sdc"
    assert loaded["LINTER_ERROR_ON_LATCH"] is False
    assert all(Path(file).is_file() for file in loaded["VERILOG_FILES"])
    text = path.read_text()
    for wrong in (
        text.replace("FP_CORE_UTIL", "FP_CORE_USE"),
        text.replace('"CLOCK_PERIOD": 6.5', '"CLOCK_PERIOD": "x"'),
    ):
        assert wrong != text
        path.write_text(wrong)
        with pytest.raises(config.InvalidConfig):
            load(path, tmp_path)


@pytest.mark.parametrize("sram", ["sky130", "mine:16x16/4"])
def test_the_schema_accepts_macros(sram: str, tmp_path: Path) -> None:
    """A macro whose layout, abstract or timing is missing is refused."""
    config = pytest.importorskip("librelane.config", reason="needs LibreLane")
    path = with_macros(sram, tmp_path / "folder")
    (views,) = json.loads(path.read_text())["MACROS"].values()
    places = {"dir": path.parent, "pdk_dir": tmp_path / "sky130A"}
    with pytest.raises(config.InvalidConfig):
        load(path, tmp_path)
    for kind in (views["gds"], views["lef"], views["lib"]["*"]):
        place, _, name = kind[0].partition("::")
        (places[place] / name).parent.mkdir(parents=True, exist_ok=True)
        (places[place] / name).touch()
    loaded = load(path, tmp_path)
    assert [macro.lef[0].endswith(".lef") for macro in loaded["MACROS"].values()] == [True]
