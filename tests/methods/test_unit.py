"""Every unit against its golden model, in every form; stated against measured cycles; and sizes that are refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import BY_METHOD, CASES, DEFAULTS, UNITS
from method_cases import Case
from unit_checks import agrees, counts_hold, depths, loaded_often, rows_of, verilator

from softmaxkit import Spec
from softmaxkit.flow.simulate import Traffic, Verilated
from softmaxkit.flow.vectors import places, stream, unpack
from softmaxkit.methods.base.unit import SoftmaxUnit

SMALL: dict[str, Any] = {"lanes": 4, "max_row": 40}
SMALLER: dict[str, Any] = {"lanes": 2, "max_row": 24}
"""For the fast tests: quicker to build, but still with rows of two slices."""
SPECS = [case.spec for case in DEFAULTS]
STALLS = Traffic(gap=100, longest_gap=4, stall=100, longest_stall=4)
SLOW = pytest.mark.slow

every_unit = pytest.mark.parametrize("spec", UNITS, ids=lambda spec: spec.name)


FOR_ITS_CYCLES = """
import gc, softmaxkit
from softmaxkit.flow.verilog import to_rtlil
to_rtlil(softmaxkit.ConSmax().unit(lanes=1), "elaborated")  # before the first one, Amaranth is silent
print(softmaxkit.Exact().unit(lanes=1, max_row=4).interval(4))
gc.collect()
"""


def test_a_unit_made_for_its_cycles_is_no_mistake() -> None:
    run = subprocess.run([sys.executable, "-c", FOR_ITS_CYCLES], capture_output=True, text=True, check=True)
    assert run.stderr == ""


def title(value: Any) -> str:
    return value.name if isinstance(value, Spec) else str(value)


def has_constants(spec: Spec) -> bool:
    return spec.unit(**SMALL).registers is not None


def unit_of(case: Case, form: str, sizes: dict[str, Any]) -> SoftmaxUnit:
    """Return a unit with its constants baked in if `form` is "baked", else a loadable one with the storage `form`."""
    if form == "baked":
        return case.spec.unit(constants=case.constants, **sizes)
    return case.spec.unit(storage=form, **sizes)


def one_case_per_kind() -> Iterator[Any]:
    """Yield the cases with a unit; the fast tests use the default of each method, and each storage once."""
    seen: set[str] = set()
    for case in CASES:
        if case.unit:
            quick = case in DEFAULTS or case.unit not in seen
            seen.add(case.unit)
            yield pytest.param(case, id=f"{case} {case.unit}", marks=[] if quick else SLOW)


@verilator
@pytest.mark.parametrize("case", one_case_per_kind())
def test_every_result_equals_golden(case: Case) -> None:
    agrees(unit_of(case, case.unit, SMALLER))


@SLOW
@verilator
@pytest.mark.parametrize("form", ["flip-flops", "latches", "memory", "baked"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_result_of_more_units_equals_golden(case: Case, form: str) -> None:
    if form not in ("flip-flops", "baked", case.unit):
        pytest.skip("this storage is tested with other cases")
    if form == "baked" and not has_constants(case.spec):
        pytest.skip("a unit without constants")
    agrees(unit_of(case, form, SMALL))


@SLOW
@verilator
@pytest.mark.parametrize("storage", ["flip-flops", "latches"])
@pytest.mark.parametrize("spec", [spec for cases in BY_METHOD.values() for spec in cases.reloaded], ids=title)
def test_constants_that_are_reloaded_continually(spec: Spec, storage: str) -> None:
    loaded_often(spec.unit(lanes=2, max_row=9, storage=storage))


@SLOW
@verilator
@pytest.mark.parametrize("storage", ["flip-flops", "latches"])
@pytest.mark.parametrize("spec", [spec for cases in BY_METHOD.values() for spec in cases.forms], ids=title)
def test_every_form(spec: Spec, storage: str) -> None:
    if storage == "latches" and not has_constants(spec):
        pytest.skip("a unit without constants, whose storages are tested elsewhere")
    examples = [*spec.examples()[1:], spec.examples()[0]]
    for _, unit, constants in spec.unit_class().verified_forms(spec, examples, storage=storage, **SMALL):
        if unit.constants is None or storage == "flip-flops":  # row buffers are tested elsewhere
            agrees(unit, constants)


@SLOW
@verilator
@pytest.mark.parametrize(
    ("which", "storage"), [(0, "flip-flops"), (1, "latches"), (0, "latches"), (1, "memory"), (0, "memory")]
)
@every_unit
def test_depths_and_storages(spec: Spec, which: int, storage: str) -> None:
    if storage not in spec.storages:
        pytest.skip("a storage that its unit does not support")
    unit = spec.unit(depth=depths(spec, **SMALL)[which], storage=storage, **SMALL)
    agrees(unit)
    counts_hold(unit)


@SLOW
@verilator
@every_unit
def test_lanes_do_not_change_results(spec: Spec) -> None:
    constants = spec.examples()[0]
    units = [spec.unit(lanes, max_row=1024 if lanes == 16 else 256) for lanes in (1, 4, 16, 32)]
    near = {n for unit in units for n in (unit.lanes - 1, unit.lanes, unit.lanes + 1)}
    rows = rows_of(units[0], sorted({1, 2, 100, 255, 256, *near} - {0}))
    golden = spec.golden(np.where(rows.real, rows.codes, 0), rows.mask, constants)
    for unit in units:
        given = stream(unit, [(constants, rows)])
        at = places(rows, unit.lanes)
        assert (unpack(given.results, unit.result_bits, unit.lanes)[at.beat, at.lane] == golden[at.rows, at.keys]).all()
        simulator = Verilated(unit, fast=False)
        for traffic in (Traffic(), STALLS):
            outcome = simulator.run(given, traffic)
            assert outcome.faults(given) == []
        longest = rows_of(unit, [1, unit.max_row - 1, unit.max_row, 1, unit.max_row], seed=1)
        agrees(unit, [constants], 50_000, [(constants, longest)])


@verilator
@pytest.mark.parametrize("spec", SPECS, ids=title)
def test_stated_cycles(spec: Spec) -> None:
    counts_hold(spec.unit(**SMALLER))


@SLOW
@verilator
@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        *((case.spec, {}) for case in CASES),
        *((spec, sizes) for spec in UNITS for sizes in ({"lanes": 1, "max_row": 9}, {"lanes": 16, "max_row": 1})),
        *((spec, {"lanes": 16, "max_row": 256, "storage": "memory"}) for spec in UNITS if "memory" in spec.storages),
        *(timed for cases in BY_METHOD.values() for timed in cases.timed),
    ],
    ids=title,
)
def test_more_stated_cycles(spec: Spec, sizes: dict[str, Any]) -> None:
    counts_hold(spec.unit(**{**SMALL, **sizes}))


@SLOW
@verilator
@pytest.mark.parametrize("lanes", [1, 4, 16])
@every_unit
def test_schedules_of_default_sizes(spec: Spec, lanes: int) -> None:
    unit = spec.unit(lanes)
    counts_hold(unit, [1, lanes + 1, 30, 100, 255, 256])


@every_unit
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"lanes": 0}, "lanes is a whole number from 1 to 256, not 0"),
        ({"lanes": 257}, "lanes is a whole number from 1 to 256, not 257"),
        ({"lanes": 4.0}, r"lanes is a whole number from 1 to 256, not 4\.0"),
        ({"max_row": 0}, "max_row is a whole number from 1 to 65536, not 0"),
        ({"max_row": 65537}, "max_row is a whole number from 1 to 65536"),
        ({"max_row": True}, "max_row is a whole number from 1 to 65536, not True"),
        ({"depth": 99}, r"depth is a whole number from \d+ to \d+ for this unit, not 99"),
        ({"depth": -1}, r"depth is a whole number from \d+ to \d+ for this unit, not -1"),
        ({"depth": 5.0}, r"depth is a whole number from \d+ to \d+ for this unit, not 5\.0"),
        ({"storage": "sram"}, "storage is 'flip-flops' or 'latches'.* for this unit, not 'sram'"),
        ({"storage": None}, "storage is 'flip-flops' or 'latches'.* for this unit, not None"),
    ],
    ids=str,
)
def test_invalid_sizes_are_refused(spec: Spec, sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec.unit(**sizes)


@pytest.mark.parametrize(
    ("spec", "sizes", "message"),
    [refused for cases in BY_METHOD.values() for refused in cases.refused_units],
    ids=title,
)
def test_incompatible_specs_and_sizes_are_refused(spec: Spec, sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec.unit(**sizes)


@every_unit
def test_a_unit_supports_the_storages_of_its_spec(spec: Spec) -> None:
    for storage in ("flip-flops", "latches", "memory"):
        if storage in spec.storages:
            assert spec.unit(storage=storage, **SMALL).storage == storage
        else:
            with pytest.raises(ValueError, match=f"not '{storage}'"):
                spec.unit(storage=storage, **SMALL)


@pytest.mark.parametrize("spec", SPECS, ids=title)
def test_constants_of_another_method_are_refused(spec: Spec) -> None:
    other = next(case for case in DEFAULTS if case.spec.constants_class is not spec.constants_class).constants
    with pytest.raises(TypeError, match=f"{type(spec).__name__} requires .*Constants, got {type(other).__name__}"):
        spec.unit(constants=other)
    unit = spec.unit()
    if unit.registers is None:
        with pytest.raises(ValueError, match="has no port to load constants"):
            unit.writes(spec.examples()[0])
    else:
        with pytest.raises(TypeError, match=f"got {type(other).__name__}"):
            unit.writes(other)


def test_without_amaranth() -> None:
    method, spec = SPECS[-1].method, type(SPECS[-1]).__name__
    script = f"""
import importlib.machinery, sys
real = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = lambda name, *more: None if name == "amaranth" else real(name, *more)
from softmaxkit import {spec}
from softmaxkit.cli import main
assert [main(["verify", "{method}"]), main(["rtl", "{method}", "-o", "nowhere"])] == [1, 1]
{spec}().unit()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    lines = [
        line.split(": ", 1) for line in done.stderr.splitlines() if "Error: " in line or line.startswith("error: ")
    ]
    assert [kind for kind, _ in lines] == ["error", "error", "ModuleNotFoundError"]
    assert {message for _, message in lines} == {
        "hardware units need the package amaranth: pip install 'softmaxkit[hardware]'"
    }
