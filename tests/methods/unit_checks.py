"""Checks shared by the tests of units, and fault injection."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
from method_cases import SourceFault

import softmaxkit
from softmaxkit import Spec
from softmaxkit.blocks.stream import beats
from softmaxkit.flow.rows import code_range, random_rows
from softmaxkit.flow.simulate import Traffic, Verilated, can_verilate
from softmaxkit.flow.vectors import Rows, stream
from softmaxkit.methods.base.unit import SoftmaxUnit

verilator = pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")

OUTPUTS = 5_000


def agrees(unit: SoftmaxUnit, constants: Any = None, outputs: int = OUTPUTS, rows: Sequence[Any] = ()) -> None:
    """Assert that every result of a unit equals that of the golden model."""
    outcome = softmaxkit.verify(unit, constants, outputs, rows=rows)
    assert outcome.passed, "\n".join([*outcome.faults, *map(str, outcome.wrong[:10])])
    assert (outcome.simulator, outcome.mismatches) == ("verilator", 0)
    assert outcome.compared >= outputs


def rows_of(unit: SoftmaxUnit, lengths: Sequence[int], seed: int = 0) -> Rows:
    """Return rows of the given lengths, with some positions masked."""
    random = np.random.default_rng(seed)
    low, high = code_range(unit, unit.spec.examples()[0])
    shape = (len(lengths), max(lengths))
    codes, real = random.integers(low, high, shape, endpoint=True), np.arange(shape[1]) < np.asarray(lengths)[:, None]
    return Rows(codes, (random.random(shape) < 0.8) & real, np.asarray(lengths))


def loaded_often(unit: SoftmaxUnit, constants: Sequence[Any] | None = None) -> None:
    """Assert that rows use the constants loaded before them, no matter how long their results wait."""
    simulator, random = Verilated(unit, fast=False), np.random.default_rng(0)
    constants = constants or unit.spec.examples()
    turns = [constants[at % len(constants)] for at in range(200)]
    given = stream(unit, [(constants, random_rows(unit, constants, 6, random)) for constants in turns])
    for traffic in (
        Traffic(stall=20, longest_stall=400),
        Traffic(gap=128, longest_gap=60, stall=64, longest_stall=100),
    ):
        outcome = simulator.run(given, traffic)
        assert not outcome.faults(given), "; ".join(outcome.faults(given))


def counts_hold(unit: SoftmaxUnit, lengths: Sequence[int] = ()) -> None:
    """Assert that the stated latency, interval and schedule equal the measured ones, for single rows and streams.

    Args:
        unit: the unit.
        lengths: row lengths; the default are those at which the timing may change.
    """
    constants = unit.constants or unit.spec.examples()[0]
    simulator = Verilated(unit, fast=False)
    lengths = lengths or [1, 2, unit.lanes - 1, unit.lanes, unit.lanes + 1, unit.max_row - 1, unit.max_row]
    counted, stated = [], []
    for length in sorted({n for n in lengths if 1 <= n <= unit.max_row}):
        alone, steady = (
            simulator.run(stream(unit, [(constants, rows_of(unit, [length] * count))]), Traffic(), cycles=True)
            for count in (1, max(400, 3 * unit.max_row))
        )
        count = beats(length, unit.lanes)
        begins, first_results = (times[::count].astype(int) for times in (steady.taken_at, steady.given_at))
        half = len(begins) // 2
        intervals = {(starts[-1] - starts[-1 - half]) / half for starts in (begins, first_results)}
        first, last = (int(alone.given_at[at] - alone.taken_at[0]) for at in (0, -1))
        counted.append((length, first, last, intervals))
        schedule = unit.schedule(length)
        stated.append((length, schedule.first, schedule.last, {schedule.interval}))
        assert (schedule.last, schedule.interval) == (unit.latency(length), unit.interval(length))
        ends = steady.given_at[count - 1 :: count].astype(int)
        held = max(np.searchsorted(begins, end) - row for row, end in enumerate(ends))
        # If rows arrive faster than they leave, further rows wait in the buffers.
        assert held == schedule.rows_held or (held > schedule.rows_held and schedule.interval > count)
    assert counted == stated


def faulty_function(fault: SourceFault) -> tuple[Any, Any, str]:
    """Return the owner of the function with a fault, the function, and its correct source."""
    owner, name = resolve_name(f"softmaxkit.{fault.owner}"), fault.function
    function = owner[name] if isinstance(owner, dict) else getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(fault.right) == 1, f"{fault.right!r} does not occur exactly once in {name}"
    return owner, function, source


def break_source(patch: pytest.MonkeyPatch, fault: SourceFault) -> None:
    """Inject a fault into the source of a function, of a module, class or dict."""
    (owner, function, source), name = faulty_function(fault), fault.function
    names: dict[str, Any] = {}
    exec(source.replace(fault.right, fault.wrong), function.__globals__, names)
    broken = names[function.__name__]
    if isinstance(owner, dict):
        patch.setitem(owner, name, broken)
    else:
        patch.setattr(owner, name, broken)


def depths(spec: Spec, **sizes: int) -> tuple[int, int]:
    """Return the smallest and the largest depth of a unit with the given sizes, as stated by the error message."""
    with pytest.raises(ValueError, match=r"depth is a whole number from \d+ to \d+ for this unit, not 0") as error:
        spec.unit(depth=0, **sizes)
    smallest, largest = map(int, re.findall(r"\d+", str(error.value))[:2])
    return smallest, largest
