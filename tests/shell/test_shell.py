"""Units in their shells: every result and every field of AXI4-Stream, in Verilator, against golden."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mutants import broken
from shell_bench import (
    ShellBench,
    address_of,
    constant_writes,
    numbered_rows,
    rows_for,
    shell_stream,
)

from softmaxkit import Spec
from softmaxkit.flow.outcome import Traffic
from softmaxkit.flow.simulate import Verilated, can_verilate
from softmaxkit.flow.verify import TRAFFIC
from softmaxkit.flow.verilog import to_rtlil
from softmaxkit.methods import ALL_METHODS, METHODS, method_class
from softmaxkit.shell import constants as constants_module
from softmaxkit.shell import results as results_module
from softmaxkit.shell import row_beats as row_beats_module
from softmaxkit.shell import rows_inside as rows_module
from softmaxkit.shell import shell as shell_module
from softmaxkit.shell import software_side as software_module
from softmaxkit.shell import unit_in_shell as unit_in_shell_module
from softmaxkit.shell.constants import switch_cycles
from softmaxkit.shell.options import ShellOptions
from softmaxkit.shell.shell import Shell

pytestmark = pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")

KEPT = {"keep": True, "status": True}
NUMBERED = {"keep": True, "row_length": True, "status": True, "axi_lite": True}
EVERYTHING = {**NUMBERED, "tags": 3}


def run(spec: Spec, options: ShellOptions, outputs: int, traffic: Any = TRAFFIC, **sizes: Any) -> int:
    """Compare the outputs of a unit in its shell with golden, in all traffic patterns; return how many there were."""
    random, examples = np.random.default_rng(1), spec.examples()
    unit = spec.unit(**{"lanes": 2, "max_row": 21, **sizes})
    bench = ShellBench(unit, options)
    simulator, compared = Verilated(bench, fast=False), 0
    loadable = unit.registers is not None
    first: list[tuple[int, int]] = []
    if options.tags and (options.has_copy(unit) or unit.sets > 1):
        own = [examples[tag % len(examples)] for tag in range(options.tags)]
        if unit.sets > 1:  # tags beyond the last set take set 0
            own[unit.sets :] = [own[0]] * (options.tags - unit.sets)
        given_sets = own[: unit.sets] if unit.sets > 1 else own
        first = [
            write for tag, constants in enumerate(given_sets) for write in constant_writes(bench, unit, constants, tag)
        ]
        first.append((address_of(bench, "constants"), 1))
    for pattern in traffic:
        segments: list[Any] = []
        turns = 8 if options.row_length else 2
        for turn in range(turns):
            share = outputs // len(traffic) // turns + 1
            loaded: Any = own if first else examples[turn % len(examples) if loadable else 0]
            if options.row_length:
                longest = 3 * unit.max_row if unit.holds_rows else 0
                rows = numbered_rows(bench, unit, examples[0], options, 2 * share // unit.max_row + 1, random, longest)
            else:
                rows = rows_for(unit, examples[0], options, share, random, unit.holds_rows and options.status)
            segments.append((loaded, rows))
        given = shell_stream(bench, unit, options, segments, random, first)
        outcome = simulator.run(given, pattern)
        assert outcome.faults(given) == []
        compared += int(given.positions[: outcome.compared].sum())
    return compared


def test_a_unit_with_every_option() -> None:
    """For a method whose rows wait and whose constants are loadable."""
    spec = max((method_class(method)() for method in METHODS), key=waits_and_loads)
    assert run(spec, ShellOptions(**EVERYTHING), 2000) > 1500


@pytest.mark.slow
@pytest.mark.parametrize("options", [KEPT, NUMBERED, EVERYTHING], ids=["kept", "numbered", "everything"])
@pytest.mark.parametrize("method", ALL_METHODS)
def test_every_method(method: str, options: dict[str, Any]) -> None:
    spec = method_class(method)()
    assert run(spec, ShellOptions(**options), 28_000, lanes=4) > 20_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"keep": True}, {"lanes": 3}),
        ({"status": True}, {"storage": "latches"}),
        ({"keep": True, "status": True, "axi_lite": True}, {"storage": "latches", "lanes": 4}),
        ({"keep": True, "status": True, "axi_lite": True, "read_back": True}, {"lanes": 1}),
        ({"tags": 2, "status": True}, {"max_row": 1}),
        ({"keep": True, "status": True}, {"storage": "memory", "lanes": 5, "max_row": 32}),
        ({"tags": 16, "keep": True}, {"baked": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", METHODS)
def test_more_shells(method: str, options: dict[str, Any], sizes: dict[str, Any]) -> None:
    spec = method_class(method)()
    sizes = dict(sizes)
    if sizes.get("storage", "latches") not in spec.storages:
        pytest.skip("a storage that the unit does not support")
    if sizes.pop("baked", False):
        sizes["constants"] = spec.examples()[0]
    if sizes.get("lanes") in (3, 5) and "with slices of" in refusal(spec, sizes):
        pytest.skip("lanes that do not divide its slices")
    chosen = ShellOptions(**options)
    if chosen.read_back and spec.unit(**sizes).registers is None:
        pytest.skip("no constants to read back")
    assert run(spec, chosen, 8000, **sizes) > 3000


SETS = {"axi_lite": True, "tags": 3}


@pytest.mark.parametrize(
    ("method", "more", "sets"),
    [
        ("exaq", {}, 3),
        pytest.param("consmax", {"read_back": True}, 2, marks=pytest.mark.slow),
        pytest.param("exaq", {"keep": True, "status": True, "read_back": True}, 3, marks=pytest.mark.slow),
        pytest.param("consmax", {}, 2, marks=pytest.mark.slow),
    ],
)
def test_sets_of_the_unit_by_tags(method: str, more: dict[str, Any], sets: int) -> None:
    options = ShellOptions(**SETS, **more)
    assert run(method_class(method)(), options, 2000, sets=sets) > 1500


@pytest.mark.parametrize(("tags", "count"), [(0, "none"), (3, "3")])
def test_every_set_requires_a_tag(tags: int, count: str) -> None:
    unit = method_class("consmax")().unit(lanes=1, sets=4)
    with pytest.raises(ValueError, match=rf"by their tags, of which there are {count}; add --tags 4"):
        ShellOptions(axi_lite=True, tags=tags).check(unit)
    ShellOptions(axi_lite=True, tags=4).check(unit)


@pytest.mark.slow
def test_a_tag_that_takes_another_set_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell_module, "set_of", lambda tag, sets: tag[:1])
    with pytest.raises(AssertionError):
        run(method_class("consmax")(), ShellOptions(**SETS), 2000, sets=3)


def test_the_logic_of_a_shell_grows_with_its_lanes() -> None:
    """Twice the lanes add twice the cells; `tkeep` had those of all lanes again for every lane."""
    cells = [
        to_rtlil(Shell(method_class("exaq")().unit(lanes=lanes), ShellOptions(**EVERYTHING)), "shell").count(" cell ")
        for lanes in (8, 16, 32)
    ]
    assert 1.9 < (cells[2] - cells[1]) / (cells[1] - cells[0]) < 2.1


def refusal(spec: Spec, sizes: dict[str, Any]) -> str:
    try:
        spec.unit(**sizes)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "right", "wrong", "options"),
    [
        (results_module, "write_results", "results.ready.eq(stream.tready)", "results.ready.eq(1)", KEPT),
        (
            results_module,
            "write_results",
            "stream.tkeep.eq(Cat(keep[lane]",
            "stream.tkeep.eq(Cat(keep[0]",
            KEPT,
        ),
        (row_beats_module, "read_beats", "lane + 1) * step].all()", "lane + 1) * step].any()", KEPT),
        (row_beats_module, "read_beats", "beats.p.mask.eq(kept & attended)", "beats.p.mask.eq(attended)", KEPT),
        (row_beats_module, "read_beats", "beats.p.keep.eq(kept)", "beats.p.keep.eq(kept & attended)", KEPT),
        (shell_module, "Shell", "goes = inside | offered | ~hold", "goes = inside | offered | 1", EVERYTHING),
        (shell_module, "Shell", "kept.source.valid.eq(taken & beats.p.last)", "kept.source.valid.eq(taken)", KEPT),
        (shell_module, "Shell", "inside.eq(~beats.p.last)", "inside.eq(0)", EVERYTHING),
        (shell_module, "Shell", "rows.begins.eq(starts)", "rows.begins.eq(0)", EVERYTHING),
        (constants_module, "ConstantsCopy", "self.wanted != loaded", "0", EVERYTHING),
        (constants_module, "ConstantsCopy", "self.loading.eq(other | running)", "self.loading.eq(running)", EVERYTHING),
        (shell_module, "Shell", "(kept.source.ready | ~ends)", "1", {"keep": True}),
        (results_module, "write_results", "kept | ~results.p.last.replicate(lanes)", "kept", KEPT),
        (rows_module, "RowsInside", "tags.sink.ready.eq(self.ends)", "tags.sink.ready.eq(1)", {"tags": 3}),
    ],
)
def test_faults_show(
    module: Any, name: str, right: str, wrong: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = score_bits if module is row_beats_module else waits_and_loads
    spec = max((method_class(method)() for method in METHODS), key=key)
    mutant = broken(module, name, right, wrong)
    for user in (shell_module, software_module, unit_in_shell_module):
        if hasattr(user, name):
            monkeypatch.setattr(user, name, mutant)
    with pytest.raises(AssertionError):
        run(spec, ShellOptions(**options), 3000)


def waits_and_loads(spec: Spec) -> tuple[bool, bool]:
    unit = spec.unit(lanes=1)
    return unit.registers is not None, unit.holds_rows


def score_bits(spec: Spec) -> int:
    return spec.score_bits


@pytest.mark.slow
@pytest.mark.parametrize("where", ["", "both"])
@pytest.mark.parametrize("method", [method for method in ALL_METHODS if waits_and_loads(method_class(method)())[0]])
def test_cycles_of_a_change_of_tag(method: str, where: str) -> None:
    """As the folder's README states it: the previous row has to leave, and then the constants are loaded."""
    spec, random = method_class(method)(), np.random.default_rng(0)
    options = ShellOptions(axi_lite=True, tags=2, register_slice=where)
    unit, length, examples = spec.unit(lanes=2, max_row=8), 8, spec.examples()
    bench = ShellBench(unit, options)
    rows = rows_for(unit, examples[0], options, 400, random)
    count, positions = len(rows.beats), rows.codes.shape[1]
    rows.beats[:], rows.tags[:] = length // 2, np.arange(count) % 2
    rows.attended[:], rows.kept[:] = True, np.arange(positions) < length
    own = [examples[0], examples[1]]
    first = [write for tag, constants in enumerate(own) for write in constant_writes(bench, unit, constants, tag)]
    first.append((address_of(bench, "constants"), 1))
    given = shell_stream(bench, unit, options, [(own, rows)], random, first)
    outcome = Verilated(bench, fast=False).run(given, Traffic(), cycles=True)
    assert outcome.faults(given) == []
    begins = outcome.taken_at[:: length // 2].astype(int)
    ends = outcome.given_at[length // 2 - 1 :: length // 2].astype(int)
    most = switch_cycles(unit.registers)
    sooner = int(options.has_slice("scores"))  # the slice accepts a row while the last word settles
    assert {*(begins[2:] - ends[1:-1])} <= {most - 1 - sooner, most - sooner}
