"""Every unit against golden, in every form; its stated cycles against counted ones; and the sizes it refuses."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from specs import CASES, DEFAULTS, IDS
from unit_checks import loaded_often

import softmaxkit
from softmaxkit import BF16, FP16, UQ, ConSmax, Exact, Exaq, Float, Q, Softermax, Spec
from softmaxkit.flow.rows import code_range
from softmaxkit.flow.simulate import Traffic, Verilated, can_verilate
from softmaxkit.flow.vectors import Rows, places, stream, unpack
from softmaxkit.methods.consmax.unit import Halves
from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.methods.base.constants import Constants

pytestmark = pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
verilator = pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")

SMALL: dict[str, Any] = {"lanes": 4, "max_row": 40}
OUTPUTS = 5_000
SPECS = [spec for spec, _ in DEFAULTS]
SCHEDULES = [*SPECS, Exact(schedule="online")]
STALLS = Traffic(gap=100, longest_gap=4, stall=100, longest_stall=4)


def title(value: Any) -> str:
    return f"{value.method} {value.variant}".strip() if isinstance(value, Spec) else str(value)


def agrees(unit: SoftmaxUnit, constants: Any = None, outputs: int = OUTPUTS, rows: Sequence[Any] = ()) -> None:
    """See that every result of a unit is golden's."""
    found = softmaxkit.verify(unit, constants, outputs, rows=rows)
    assert found.passed, "\n".join([*found.faults, *map(str, found.wrong[:10])])
    assert (found.simulator, found.mismatches) == ("verilator", 0)
    assert found.compared >= outputs


def rows_of(unit: SoftmaxUnit, lengths: Sequence[int], seed: int = 0) -> Rows:
    """Return rows of these lengths, some positions masked."""
    random = np.random.default_rng(seed)
    low, high = code_range(unit, unit.spec.examples()[0])
    shape = (len(lengths), max(lengths))
    codes, real = random.integers(low, high, shape, endpoint=True), np.arange(shape[1]) < np.asarray(lengths)[:, None]
    return Rows(codes, (random.random(shape) < 0.8) & real, np.asarray(lengths))


def small_unit(spec: Spec, numbers: dict[str, Any], form: str) -> SoftmaxUnit:
    """Return a small unit: one with its constants baked in, or a loadable one with the storage that `form` says."""
    if form == "baked":
        return spec.unit(constants=spec.constants(**numbers), **SMALL)
    return spec.unit(storage=form, **SMALL)


FAST = {
    ("exact", "flip-flops"),
    ("exact schedule=online", "latches"),
    ("consmax", "flip-flops"),
    ("consmax table_format=UQ(0,12), constant=multiplied, ceiling=3.0", "baked"),
    ("consmax tables=shift", "latches"),
    ("softermax", "flip-flops"),
    ("softermax maximum=global, integer_maximum=floor, rounding=floor", "memory"),
    ("exaq 2 bits, gaussian clip", "flip-flops"),
    ("exaq 3 bits, gaussian clip, accumulator=histogram", "memory"),
}
LOADABLE = ("consmax", "exaq")
FORMS = [
    (name, form) for name in IDS for form in ("flip-flops", "baked") if form != "baked" or name.startswith(LOADABLE)
]
FORMS = sorted({*FORMS, *FAST})


@verilator
@pytest.mark.parametrize(
    ("name", "form"), [pytest.param(*each, marks=[] if each in FAST else pytest.mark.slow) for each in FORMS]
)
def test_every_result_is_goldens(name: str, form: str) -> None:
    agrees(small_unit(*CASES[IDS.index(name)], form))


@verilator
def test_halves_of_sixteen_bits_together_and_apart() -> None:
    unit = ConSmax(bits=16, constant="multiplied", table_format=UQ(0, 9)).unit(lanes=2, max_row=9, apart=True)
    agrees(unit, [unit.spec.examples()[0], Halves(*unit.half.examples()[1:])])


@pytest.mark.slow
@verilator
@pytest.mark.parametrize("storage", ["flip-flops", "latches"])
@pytest.mark.parametrize("spec", [ConSmax(constant="multiplied"), Exaq(), Exaq(accumulator="histogram")], ids=title)
def test_constants_that_change_all_the_time(spec: Spec, storage: str) -> None:
    loaded_often(spec.unit(lanes=2, max_row=9, storage=storage))


@verilator
def test_halves_that_part_and_join_all_the_time() -> None:
    unit = ConSmax(bits=16, constant="multiplied", table_format=UQ(0, 9)).unit(lanes=2, max_row=9, apart=True)
    halves = unit.half.examples()
    loaded_often(unit, [unit.spec.examples()[0], Halves(*halves[:2]), unit.spec.examples()[1], Halves(*halves[1:])])


def buildable(spec: type[Spec], **choices: Sequence[Any]) -> Iterator[Spec]:
    """Yield the specs of all choices that do not contradict each other."""
    for values in itertools.product(*choices.values()):
        try:
            yield spec(**dict(zip(choices, values, strict=True)))
        except ValueError:
            continue


CONSMAX = [
    (spec, sizes)
    for spec in buildable(
        ConSmax,
        bits=[8, 16],
        tables=["split", "shift", "whole"],
        table_format=[BF16, FP16, UQ(0, 9)],
        constant=["folded", "multiplied"],
    )
    for sizes in ({"baked": True}, {"storage": "flip-flops"}, {"storage": "latches"}, {"apart": True})
    if "apart" not in sizes or spec.bits == 16
]


def test_consmax_has_many_forms() -> None:
    assert len(CONSMAX) > 50
    assert sum("apart" in sizes for _, sizes in CONSMAX) == 6


@pytest.mark.slow
@verilator
@pytest.mark.parametrize(("spec", "sizes"), CONSMAX, ids=title)
def test_every_form_of_consmax(spec: ConSmax, sizes: dict[str, Any]) -> None:
    sizes, examples = dict(sizes), spec.examples()[1:]
    if sizes.pop("baked", False):
        return agrees(spec.unit(lanes=2, constants=examples[0], max_row=20))
    unit = spec.unit(lanes=2, max_row=20, **sizes)
    return agrees(unit, [examples[0], Halves(*unit.half.examples()[:2])] if unit.apart else examples)


@pytest.mark.slow
@verilator
@pytest.mark.parametrize(
    "spec",
    [
        *buildable(
            Softermax,
            integer_maximum=["ceil", "floor"],
            rounding=["nearest", "floor"],
            input=[Q(6, 2), Q(6, 4)],
            power_segments=[4, 8],
            maximum=["online", "global"],
        ),
        *buildable(Softermax, input=[Q(1, 7), Q(-1, 9), Q(-3, 8)], integer_maximum=["ceil", "floor"]),
    ],
    ids=title,
)
def test_every_form_of_softermax(spec: Softermax) -> None:
    agrees(spec.unit(**SMALL))


@pytest.mark.slow
@verilator
@pytest.mark.parametrize("baked", [False, True])
@pytest.mark.parametrize(
    "spec", buildable(Exaq, bits=[2, 3, 4], accumulator=["packed", "histogram", "plain"]), ids=title
)
def test_every_form_of_exaq(spec: Exaq, baked: bool) -> None:
    agrees(spec.unit(constants=spec.constants(clip=-7.0) if baked else None, **SMALL))


NARROW = Exaq(exponential=UQ(1, 5), reciprocal=UQ(1, 5), reciprocal_segments=4, output=UQ(1, 5))
SERIAL: list[tuple[Exaq, dict[str, Any], int]] = [
    (NARROW, {"max_row": 100}, 1),
    (Exaq(), {"storage": "memory"}, 1),
    (Exaq(accumulator="plain"), {"depth": 5, "storage": "memory"}, 1),
    (Exaq(accumulator="histogram"), {"storage": "memory"}, 1),
    (Exaq(bits=3), {"lanes": 2, "storage": "memory"}, 2),
    (Exaq(bits=4, accumulator="histogram"), {"storage": "memory"}, 2),
    (replace(NARROW, output=UQ(0, 4), accumulator="histogram"), {"lanes": 2, "max_row": 100, "storage": "latches"}, 2),
    (replace(NARROW, reciprocal_segments=1, output=UQ(1, 20)), {"max_row": 128, "storage": "memory"}, 1),
    (replace(NARROW, reciprocal_segments=256), {"max_row": 128, "storage": "memory"}, 1),
]
"""Units that make a row's results serially, and the bits a cycle."""


@verilator
@pytest.mark.parametrize("baked", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    ("spec", "sizes", "digit"),
    [pytest.param(*each, marks=pytest.mark.slow if at else []) for at, each in enumerate(SERIAL)],
)
def test_results_made_serially(spec: Exaq, sizes: dict[str, Any], digit: int, baked: bool) -> None:
    unit = spec.unit(constants=spec.constants(clip=-3.0) if baked else None, **{"lanes": 1, **sizes})
    assert unit.passes.digit == digit
    agrees(unit)
    if baked:
        counts_hold(unit)


def test_results_are_made_serially_where_a_row_takes_longer() -> None:
    spec = Exaq()
    assert [spec.unit(lanes=lanes).passes is None for lanes in (1, 2, 3, 16)] == [False, False, True, True]
    assert [spec.unit(lanes=1, max_row=length).interval(1) for length in (60, 100, 200)] == [4, 70, 128]
    assert {Exaq(bits=bits).unit(lanes=1).interval(256) for bits in (2, 3, 4)} == {256}


@pytest.mark.parametrize("constants", [{"exponentials": (1, 2, 3, 32767)}, {"thresholds": (-9, -5, 1)}])
def test_constants_that_make_less_of_the_maximum(constants: dict[str, Any]) -> None:
    wrong = replace(CLIP, **constants)
    message = "whose last threshold is not above 0 and whose last exponential is 1, not"
    with pytest.raises(ValueError, match=message):
        Exaq().unit(constants=wrong)
    with pytest.raises(ValueError, match=message):
        Exaq().unit().writes(wrong)


@pytest.mark.slow
@verilator
@pytest.mark.parametrize(
    "spec",
    [
        *buildable(Exact, format=[Float(5, 12), Float(5, 2), Float(4, 3)]),
        *buildable(Exact, schedule=["online"], format=[FP16, Float(4, 3)], slice_width=[1, 2, 4, 16]),
    ],
    ids=title,
)
def test_every_form_of_exact(spec: Exact) -> None:
    agrees(spec.unit(**SMALL))


def depths(spec: Spec) -> tuple[int, int]:
    """Return the smallest and the largest depth of a small unit, as a refusal tells them."""
    with pytest.raises(ValueError, match=r"depth is a whole number from \d+ to \d+ for this unit, not 0") as error:
        spec.unit(depth=0, **SMALL)
    least, most = map(int, re.findall(r"\d+", str(error.value))[:2])
    return least, most


@pytest.mark.slow
@verilator
@pytest.mark.parametrize(
    ("which", "storage"), [(0, "flip-flops"), (1, "latches"), (0, "latches"), (1, "memory"), (0, "memory")]
)
@pytest.mark.parametrize("spec", SCHEDULES, ids=title)
def test_depths_and_storages(spec: Spec, which: int, storage: str) -> None:
    if (spec.method, storage) == ("consmax", "memory"):
        pytest.skip("ConSmax has no rows that wait")
    unit = spec.unit(depth=depths(spec)[which], storage=storage, **SMALL)
    agrees(unit)
    counts_hold(unit)


@pytest.mark.slow
@verilator
@pytest.mark.parametrize("spec", SCHEDULES, ids=title)
def test_lanes_change_no_result(spec: Spec) -> None:
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


def counts_hold(unit: SoftmaxUnit) -> None:
    """See that latency and interval are stated as they are counted."""
    constants = unit.constants or unit.spec.examples()[0]
    simulator = Verilated(unit, fast=False)
    lengths = {1, 2, unit.lanes - 1, unit.lanes, unit.lanes + 1, unit.max_row - 1, unit.max_row}
    counted, stated = [], []
    for length in sorted(n for n in lengths if 1 <= n <= unit.max_row):
        alone, steady = (
            simulator.run(stream(unit, [(constants, rows_of(unit, [length] * count))]), Traffic(), cycles=True)
            for count in (1, max(400, 3 * unit.max_row))
        )
        intervals = set()
        for times in (steady.taken_at, steady.given_at):
            starts = times[:: -(-length // unit.lanes)].astype(int)
            half = len(starts) // 2
            intervals.add((starts[-1] - starts[-1 - half]) / half)
        counted.append((length, int(alone.given_at[-1] - alone.taken_at[0]), intervals))
        stated.append((length, unit.latency(length), {unit.interval(length)}))
    assert counted == stated


@verilator
@pytest.mark.parametrize("spec", SPECS, ids=title)
def test_stated_cycles(spec: Spec) -> None:
    counts_hold(spec.unit(**SMALL))


@pytest.mark.slow
@verilator
@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        *((spec, {}) for spec, _ in CASES if spec not in SPECS),
        *((spec, sizes) for spec in SCHEDULES for sizes in ({"lanes": 1, "max_row": 9}, {"lanes": 16, "max_row": 1})),
        *((spec, {"lanes": 16, "max_row": 256, "storage": "memory"}) for spec in SCHEDULES if spec.method != "consmax"),
        *((Exact(schedule="online"), {"lanes": 1, "max_row": longest}) for longest in (20, 35)),
    ],
    ids=title,
)
def test_more_stated_cycles(spec: Spec, sizes: dict[str, Any]) -> None:
    counts_hold(spec.unit(**{**SMALL, **sizes}))


CLIP = Exaq().constants(clip=-5.0)


@pytest.mark.parametrize("spec", SPECS, ids=title)
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
def test_sizes_that_cannot_be(spec: Spec, sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec.unit(**sizes)


@pytest.mark.parametrize(
    ("spec", "sizes", "message"),
    [
        (ConSmax(), {"storage": "memory"}, "storage is 'flip-flops' or 'latches' for this unit, not 'memory'"),
        (Softermax(), {"lanes": 3}, "with slices of 16 positions, lanes divide 16 or are a multiple of it, not 3"),
        (Exact(schedule="online"), {"lanes": 24}, "lanes divide 16 or are a multiple of it, not 24"),
        (Exact(exponential_segments=2048), {}, "a unit's tables have at most 1024 segments, not 2048"),
        (Exaq(reciprocal_segments=2048), {}, "a unit's tables have at most 1024 segments, not 2048"),
        (Softermax(reciprocal=UQ(1, 15), reciprocal_segments=2048), {}, "at most 1024 segments, not 2048"),
        (ConSmax(), {"apart": True}, "apart=True takes a spec of bits=16 and loadable constants"),
        (ConSmax(bits=16), {"apart": True, "constants": ConSmax(bits=16).constants()}, "apart=True takes"),
    ],
    ids=title,
)
def test_what_cannot_go_together(spec: Spec, sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec.unit(**sizes)


@pytest.mark.parametrize("spec", SPECS, ids=title)
def test_constants_of_others(spec: Spec) -> None:
    other: Constants = CLIP if spec.method == "consmax" else ConSmax().constants()
    with pytest.raises(
        TypeError, match=f"a unit of {type(spec).__name__} takes .*Constants, not {type(other).__name__}"
    ):
        spec.unit(constants=other)
    unit = spec.unit()
    if unit.registers is None:
        with pytest.raises(ValueError, match="has no port to load constants through"):
            unit.writes(spec.constants())
    else:
        with pytest.raises(TypeError, match=f"not {type(other).__name__}"):
            unit.writes(other)


def test_constants_of_several_heads() -> None:
    spec = ConSmax()
    several = type(spec.constants()).stack(spec.examples())
    message = r"takes the constants of one head, not of 3; constants\.of_head\(0\) is the first"
    with pytest.raises(ValueError, match=message):
        spec.unit(constants=several)
    with pytest.raises(ValueError, match=message):
        spec.unit().writes(several)
    assert spec.unit(constants=several.of_head(1)).constants == spec.examples()[1]


def test_constants_that_cannot_be_loaded() -> None:
    spec = ConSmax(bits=16)
    apart = Halves(*ConSmax().examples()[:2])
    with pytest.raises(ValueError, match="has no port to load constants through; build it without constants"):
        ConSmax().unit(constants=ConSmax().constants()).writes(ConSmax().constants())
    with pytest.raises(ValueError, match="halves cannot be used apart; build it with apart=True"):
        spec.unit().writes(apart)
    assert spec.unit(apart=True).writes(apart)


def test_without_amaranth() -> None:
    script = """
import importlib.machinery, sys
real = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = lambda name, *more: None if name == "amaranth" else real(name, *more)
from softmaxkit import Exaq
from softmaxkit.cli import main
assert [main(["verify", "exaq"]), main(["rtl", "exaq", "-o", "nowhere"])] == [1, 1]
Exaq().unit()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    said = [line.split(": ", 1) for line in done.stderr.splitlines() if "Error: " in line or line.startswith("error: ")]
    assert [kind for kind, _ in said] == ["error", "error", "ModuleNotFoundError"]
    assert {what for _, what in said} == {
        "hardware units need the package amaranth: pip install 'softmaxkit[hardware]'"
    }
