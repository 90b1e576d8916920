"""Faults in the sources of units, and in their gates and tables, are found."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

import pytest
from unit_checks import loaded_often

from softmaxkit import UQ, ConSmax, Exact, Exaq, Float, Q, Softermax, Spec, verify
from softmaxkit.blocks import gather
from softmaxkit.blocks.gather import Gather
from softmaxkit.blocks.row_maximum import RowMaximum
from softmaxkit.blocks.shifter import Shifted
from softmaxkit.flow.faults import Fault
from softmaxkit.flow.simulate import can_verilate
from softmaxkit.flow.verify import Verification
from softmaxkit.methods.consmax import datapath as consmax
from softmaxkit.methods.consmax import unit as consmax_unit
from softmaxkit.methods.exact import datapath as exact
from softmaxkit.methods.exact.fronts import OnlineFront, ThreePassFront
from softmaxkit.methods.exaq import accumulators
from softmaxkit.methods.exaq import unit as exaq_unit
from softmaxkit.methods.exaq.accumulators import SerialHistogramSum
from softmaxkit.methods.exaq.products import ProductUnit
from softmaxkit.methods.exaq.serial import SerialResults
from softmaxkit.methods.softermax import running_sum
from softmaxkit.methods.softermax import unit as softermax_unit
from softmaxkit.methods.softermax.running_sum import RunningSum
from softmaxkit.methods.softermax.unnormalised import UnnormalisedUnit

pytestmark = [
    pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler"),
    pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable"),
]
SLOW = pytest.mark.slow

FLOAT = Float(4, 3)
FIXED = {"unnormalised": UQ(1, 5), "power_sum": UQ(3, 3), "reciprocal": UQ(1, 5), "output": UQ(1, 5)}
LEVELS: dict[str, Any] = {
    "scores": Q(4, 2),
    "exponential": UQ(1, 5),
    "reciprocal": UQ(1, 5),
    "reciprocal_segments": 4,
    "output": UQ(1, 5),
}
SPECS: dict[str, Spec] = {
    "exact": Exact(format=FLOAT, exponential_segments=4, reciprocal_segments=4),
    "exact online": Exact(
        format=FLOAT, exponential_segments=4, reciprocal_segments=4, schedule="online", slice_width=4
    ),
    "consmax": ConSmax(table_format=Float(5, 3), output_bits=6, ceiling=0.4),
    "consmax fixed": ConSmax(table_format=UQ(0, 6), constant="multiplied", output_bits=6),
    "softermax": Softermax(input=Q(4, 2), reciprocal_segments=4, slice_width=4, **FIXED),
    "softermax global": Softermax(input=Q(4, 2), reciprocal_segments=4, maximum="global", **FIXED),
    "exaq": Exaq(**LEVELS),
    "exaq histogram": Exaq(**LEVELS, accumulator="histogram"),
    "exaq serial": Exaq(**LEVELS, accumulator="histogram"),
}
"""Narrow numbers, so that units are built quickly, few codes say much, and sums saturate."""
SIZES = {"exaq serial": {"lanes": 1, "max_row": 100}}


def verified(which: str, fault: Fault | None = None) -> Verification:
    return verify(SPECS[which].unit(**SIZES.get(which, {"lanes": 2, "max_row": 12})), outputs=4_000, fault=fault)


def break_source(patch: pytest.MonkeyPatch, owner: Any, name: str, right: str, wrong: str) -> None:
    """Put a fault into the source of a function, of a module, class or dict."""
    function = owner[name] if isinstance(owner, dict) else getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(right) == 1, f"{right!r} is not in {name} once"
    found: dict[str, Any] = {}
    exec(source.replace(right, wrong), function.__globals__, found)
    broken = found[function.__name__]
    if isinstance(owner, dict):
        patch.setitem(owner, name, broken)
    else:
        patch.setattr(owner, name, broken)


FAULTS: dict[str, tuple[str, Any, str, str, str]] = {
    "difference without a sticky bit": ("exact", exact, "align", "aligned.half | aligned.rest", "aligned.half"),
    "masked exponentials in the sum": ("exact", exact, "masked", "Mux(on, power.field, 0)", "power.field"),
    "sum of the row before": ("exact", ThreePassFront, "elaborate", "Mux(first, 0, total)", "total"),
    "maximum of the group before": ("exact", Gather, "elaborate", "present & (~source", "(~source"),
    "results not flushed": ("exact", exact, "to_float", "rounded.zero | (field < 1)", "rounded.zero"),
    "maximum kept beyond the row": (
        "exact online",
        OnlineFront,
        "_running_maximum",
        "begun.eq(any_before & ~last)",
        "begun.eq(any_before)",
    ),
    "sum not rescaled": (
        "exact online",
        OnlineFront,
        "elaborate",
        "current * significand",
        "current << len(significand) - 1",
    ),
    "no limit": ("consmax", consmax, "to_output", "large | (rounded > limit)", "large"),
    "small results wrap": ("consmax", consmax, "to_output", "value.shift > bits", "value.shift > 99"),
    "mask ignored": (
        "consmax",
        consmax_unit.Unit,
        "_entries",
        "masked = [~mask[0], ~mask[0]]",
        "masked = [Const(0)] * 2",
    ),
    "offset ignored": (
        "consmax",
        consmax_unit.Unit,
        "_entries",
        'words["lower_offset" if table == "lower_high" else "offset"][0]',
        "0",
    ),
    "writes inside rows": (
        "consmax",
        consmax_unit,
        "hold_between_rows",
        "port.ready.eq(~inside & ~busy)",
        "port.ready.eq(1)",
    ),
    "ties away from even": (
        "consmax",
        Shifted,
        "round_up",
        "self.half & (self.rest | self.whole[:1].any())",
        "self.half",
    ),
    "loaded while rows are inside": ("exaq", exaq_unit, "rows_inside", "return count != 0", "return count == 99"),
    "no saturation": (
        "softermax",
        running_sum,
        "saturate",
        "Mux(value[bits:].any(), (1 << bits) - 1, value[:bits])",
        "value[:bits]",
    ),
    "floor in place of ceil": ("softermax", UnnormalisedUnit, "_whole", "whole + 1, whole)", "whole, whole)"),
    "no largest whole number": ("softermax", UnnormalisedUnit, "_whole", " & (whole != largest)", ""),
    "mask of powers ignored": (
        "softermax",
        UnnormalisedUnit,
        "_power",
        "Mux(beat[self.lanes * bits + lane], saturated, 0)",
        "saturated",
    ),
    "total of the row before": ("softermax", RunningSum, "elaborate", "Mux(first, 0, total)", "total"),
    "total not rescaled": (
        "softermax",
        RunningSum,
        "_join",
        "places, fine + 1)",
        "0, fine + 1)",
    ),
    "slices joined": ("softermax global", RunningSum, "elaborate", "Mux(begins, 0, kept)", "kept"),
    "thresholds exclusive": ("exaq", exaq_unit.Unit, "_levels", "distance >= threshold", "distance > threshold"),
    "surplus not taken off": ("exaq", accumulators.ACCUMULATORS, "packed", "found - surplus", "found"),
    "maximum of the row before": ("exaq serial", RowMaximum, "elaborate", "maximum(best, source.p.key), s", "best, s"),
    "maximum of the next row": ("exaq serial", RowMaximum, "elaborate", "Mux(leaves, leaving, best)", "best"),
    "masked results": ("exaq", exaq_unit.Unit, "_results", "Mux(mask[lane], ", "Mux(1, "),
    "counts of the row before": ("exaq histogram", accumulators, "_accumulate", "Mux(first, 0, total)", "total"),
    "mask not counted": (
        "exaq histogram",
        accumulators.ACCUMULATORS,
        "histogram",
        "(each == level) & mask",
        "(each == level)",
    ),
    "no sum inverted": ("exaq serial", SerialResults, "elaborate", "~source.payload", "source.payload"),
    "no leading one": ("exaq serial", SerialResults, "elaborate", "line & held[-1] & (rank != 0)", "0"),
    "serial ties away from even": ("exaq serial", SerialResults, "_add", "half & (sticky | total[0])", "half"),
    "results shown one by one": ("exaq serial", SerialResults, "_give", "[*waiting, result]", "[result] * 4"),
    "counts not doubled": (
        "exaq serial",
        SerialHistogramSum,
        "elaborate",
        "Mux(level == 0, total << 1, total)",
        "total",
    ),
    "products overwritten": ("exaq", ProductUnit, "elaborate", "level == spec.levels - 1)", "level != 0)"),
}


FAST = {
    "difference without a sticky bit",
    "sum of the row before",
    "sum not rescaled",
    "no limit",
    "mask ignored",
    "writes inside rows",
    "no saturation",
    "floor in place of ceil",
    "total not rescaled",
    "thresholds exclusive",
    "surplus not taken off",
    "mask not counted",
    "serial ties away from even",
}


@pytest.mark.parametrize("name", [pytest.param(each, marks=[] if each in FAST else SLOW) for each in FAULTS])
def test_faults_in_the_source(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    which, *fault = FAULTS[name]
    break_source(monkeypatch, *fault)
    found = verified(which)
    assert not found.passed
    assert found.faults[0].endswith("wrong result beats")
    assert 0 < len(found.wrong) <= found.mismatches <= found.compared
    assert all(wrong.got != wrong.expected for wrong in found.wrong)


@SLOW
@pytest.mark.parametrize(
    ("which", "module"),
    [
        ("exact", gather),
        ("softermax", softermax_unit),
        ("exaq", exaq_unit),
    ],
)
def test_buffers_that_are_too_short(which: str, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = module.RowBuffer
    monkeypatch.setattr(module, "RowBuffer", lambda width, depth, storage: right(width, 4, storage))
    found = verified(which)
    assert not found.passed
    assert any("result beats came" in fault for fault in found.faults)


@SLOW
def test_writes_that_do_not_wait_for_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = "port.ready.eq(~inside & ~busy)", "port.ready.eq(~inside)"
    spec = SPECS["consmax fixed"]
    loaded_often(spec.unit(lanes=2, max_row=12))
    break_source(monkeypatch, consmax_unit, "hold_between_rows", right, wrong)
    with pytest.raises(AssertionError, match="wrong result beats"):
        loaded_often(spec.unit(lanes=2, max_row=12))


def see_fault(which: str, seed: int) -> None:
    fault = Fault(seed)
    found = verified(which, fault)
    assert fault.what
    assert not found.passed, fault.what


@pytest.mark.parametrize("which", ["exact", "exaq"])
def test_a_fault_in_a_gate_or_table(which: str) -> None:
    see_fault(which, 1)


@SLOW
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("which", SPECS)
def test_more_faults_in_gates_and_tables(which: str, seed: int) -> None:
    see_fault(which, seed)
