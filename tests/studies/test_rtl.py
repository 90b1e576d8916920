"""Units of several heads: which heads share one, their folders, and the contents of the record and the tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softmaxkit import ConSmax, Softermax, Spec
from softmaxkit.flow import tools
from softmaxkit.flow.vectors import Rows
from softmaxkit.studies.hardware import TrainedHead
from softmaxkit.studies.rtl import RtlOptions, write_rtl

pytestmark = pytest.mark.skipif(not tools.find("yosys"), reason="needs Yosys")

WHOLE = ConSmax(tables="whole")


def trained(number: int, spec: Spec = WHOLE, **parameters: float) -> TrainedHead:
    codes = np.random.default_rng(number).integers(-8, 8, (5, 6))
    rows = Rows(codes, np.ones(codes.shape, bool), np.full(5, 6))
    return TrainedHead(2, number, spec, spec.constants(**parameters), rows)


HEADS = [trained(0), trained(1, beta=0.5, gamma=60.0), trained(2)]
"""The first and the last have equal constants."""


def write(
    folder: Path, heads: Sequence[TrainedHead], **options: Any
) -> tuple[list[dict[str, Any]], list[str], list[tuple[int, int]]]:
    """Return the results, the messages and the progress."""
    said: list[str] = []
    progress: list[tuple[int, int]] = []
    sizes = {"lanes": 1, "max_row": 8, "depth": None, "storage": "flip-flops"}
    record = write_rtl(
        [(head.spec, head) for head in heads],
        RtlOptions(sizes, folder, **options),
        ["softmaxkit", "rtl"],
        lambda _: lambda done, total: progress.append((done, total)),
        said.append,
    )
    return json.loads(json.dumps(record["results"])), said, progress


def sets(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "tables.json").read_text())["sets"])


def test_baked_heads_have_their_own_folders_and_equal_ones_share_one(tmp_path: Path) -> None:
    folder = tmp_path / "chip"
    results, said, progress = write(folder, HEADS)
    assert [Path(result["folder"]).name for result in results] == ["layer2-head0", "layer2-head0", "layer2-head1"]
    assert [(result["layer"], result["head"]) for result in results] == [(2, 0), (2, 2), (2, 1)]
    assert sorted(path.name for path in folder.iterdir()) == ["layer2-head0", "layer2-head1"]
    assert said == [f"{folder / 'layer2-head0'}: one unit for 2 heads with equal constants: layer2-head0, layer2-head2"]
    assert progress == [(1, 2), (2, 2)]
    for result in results:
        assert Spec.from_json(result["spec"]) == WHOLE
        assert (result["unit"], result["lanes"], result["max_row"], result["depth"]) == ("baked", 1, 8, 1)
        assert (result["latency_cycles"], result["interval_cycles"]) == (8, 8)
        here = Path(result["folder"])
        assert f"module {result['name']}(" in (here / f"{result['name']}.sv").read_text()
        (only,) = sets(here)
        assert [only["constants"]] == result["constants"]
        assert f"layer2-head{result['head']}" in only["heads"]
    assert "It serves the heads layer2-head0, layer2-head2;" in (folder / "layer2-head0" / "README.md").read_text()
    with pytest.raises(ValueError, match="already contains an exported unit; give another folder, or --overwrite"):
        write(folder, HEADS)
    write(folder, HEADS[:1], overwrite=True)
    assert (folder / "parameters.json").is_file()
    assert not (folder / "layer2-head0").exists()


def test_loadable_heads_share_a_unit_that_runs_with_all_of_them(tmp_path: Path) -> None:
    results, said, _ = write(tmp_path, HEADS, kind="loadable", name="unit")
    assert [(result["head"], result["folder"], result["name"]) for result in results] == [
        (number, str(tmp_path), "unit") for number in range(3)
    ]
    assert len(said) == 1
    unit = WHOLE.unit(lanes=1, max_row=8)
    first, second = sets(tmp_path)
    assert (first["heads"], second["heads"]) == (["layer2-head0", "layer2-head2"], ["layer2-head1"])
    for constant_set, head in ((first, HEADS[0]), (second, HEADS[1])):
        assert [tuple(write) for write in constant_set["writes"]] == unit.writes(head.constants)
    lines = (tmp_path / "writes.hex").read_text().splitlines()
    # Two sets of constants with random rows, then every head with its own rows, then both sets with rows near maxima.
    assert len(lines) == 7 * len(unit.writes(HEADS[0].constants))
    assert len({line.split()[0] for line in lines}) == 7


@pytest.mark.parametrize("lanes", [pytest.param(1, marks=pytest.mark.slow), 16])
def test_every_lane_of_the_bench_receives_every_code(lanes: int, tmp_path: Path) -> None:
    """A wrong entry of a table must not pass because its code never comes, least of all in a bench of few beats."""
    spec = Softermax()
    sizes = {"lanes": lanes, "max_row": 64, "depth": None, "storage": "flip-flops"}
    write_rtl([(spec, None)], RtlOptions(sizes, tmp_path), ["softmaxkit", "rtl"], lambda _: lambda *_: None, print)
    beats = [int(line, 16) for line in (tmp_path / "scores.hex").read_text().split()]
    bits = spec.score_bits
    for lane in range(lanes):
        attended = [beat for beat in beats if beat >> (lanes * bits + lane) & 1]
        assert len({beat >> (lane * bits) & ((1 << bits) - 1) for beat in attended}) == 1 << bits


def test_other_specs_are_other_units(tmp_path: Path) -> None:
    heads = [HEADS[0], trained(3, ConSmax(tables="shift")), HEADS[1]]
    results, _, _ = write(tmp_path, heads, kind="loadable")
    assert [Path(result["folder"]).name for result in results] == ["layer2-head0", "layer2-head0", "layer2-head3"]
    names = ["softmaxkit_consmax_layer2_head0"] * 2 + ["softmaxkit_consmax_layer2_head3"]
    assert [result["name"] for result in results] == names


def test_a_kind_without_units_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="softermax has no constants to bake in or to load; leave --constants out"):
        write(tmp_path / "chip", [HEADS[0], trained(1, Softermax())], kind="loadable")
    assert list(tmp_path.iterdir()) == []
