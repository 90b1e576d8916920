"""Units with several sets of constants: each row uses its own set, at full rate; mutants with the wrong set fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from unit_checks import agrees, verilator

from softmaxkit import UQ, ConSmax, Exaq, Float, Q, Sigmoid, Softermax, Spec, verify
from softmaxkit.blocks.configuration import RegisterMap
from softmaxkit.flow.outcome import Traffic
from softmaxkit.flow.prove import prove
from softmaxkit.flow.simulate import Verilated
from softmaxkit.flow.vectors import Rows, stream
from softmaxkit.methods.base.constants import Sets
from softmaxkit.methods.consmax import unit as consmax
from softmaxkit.methods.exaq import serial
from softmaxkit.methods.exaq import unit as exaq
from softmaxkit.methods.sigmoid import unit as sigmoid

pytestmark = verilator
SLOW = pytest.mark.slow

NARROW_CONSMAX = ConSmax(table_format=UQ(0, 6), constant="multiplied", output_bits=6)
NARROW_SIGMOID = Sigmoid(scores=Q(3, 0), output=UQ(0, 4))
NARROW_EXAQ = Exaq(scores=Q(4, 2), exponential=UQ(1, 5), reciprocal=UQ(1, 5), reciprocal_segments=4, output=UQ(1, 5))
SHORT = {"lanes": 2, "max_row": 12}
SERIAL = {"lanes": 1, "max_row": 100}


def slow(*case: Any) -> Any:
    return pytest.param(*case, marks=SLOW)


@pytest.mark.parametrize(
    ("spec", "sizes", "sets"),
    [
        (NARROW_CONSMAX, SHORT, 3),
        (NARROW_SIGMOID, SHORT, 2),
        (NARROW_EXAQ, SHORT, 4),
        slow(NARROW_EXAQ, {**SERIAL, "storage": "latches"}, 4),
        slow(NARROW_EXAQ, {**SHORT, "depth": 5}, 3),
        slow(NARROW_EXAQ, {"lanes": 16, "max_row": 48, "storage": "memory"}, 2),
        slow(ConSmax(), {"lanes": 4, "storage": "latches"}, 4),
        slow(ConSmax(table_format=Float(5, 3)), {"lanes": 1, "depth": 1}, 16),
        slow(ConSmax(tables="shift"), {"lanes": 3}, 2),
        slow(ConSmax(tables="whole"), {"lanes": 2}, 4),
        slow(ConSmax(bits=16), {"lanes": 2}, 2),
        slow(ConSmax(bits=16, constant="multiplied"), {"lanes": 1, "storage": "latches"}, 3),
        slow(Sigmoid(), {"lanes": 4, "storage": "latches"}, 3),
        *(
            slow(Exaq(bits=bits, accumulator=accumulator), sizes, 3)
            for bits in (2, 3)
            for accumulator in ("plain", "histogram", "packed")
            for sizes in ({"lanes": 1}, {"lanes": 4, "max_row": 40}, {"lanes": 8, "max_row": 64, "storage": "latches"})
        ),
    ],
    ids=str,
)
def test_every_row_uses_its_own_set(spec: Spec, sizes: dict[str, Any], sets: int) -> None:
    agrees(spec.unit(**sizes, sets=sets))


@pytest.mark.parametrize(
    ("spec", "sizes"), [(NARROW_CONSMAX, SHORT), slow(NARROW_SIGMOID, SHORT), slow(NARROW_EXAQ, SHORT)], ids=str
)
def test_rows_of_different_sets_pass_at_full_rate(spec: Spec, sizes: dict[str, Any]) -> None:
    unit, count, length = spec.unit(**sizes, sets=3), 60, 12
    (loads, *_), random = unit.loads(spec.examples()), np.random.default_rng(0)
    low, high = spec.code_range()
    rows = Rows(
        random.integers(low, high, (count, length), endpoint=True),
        np.ones((count, length), np.bool_),
        np.full(count, length),
        random.integers(0, 3, count),
    )
    given = stream(unit, [(loads, rows)])
    outcome = Verilated(unit, fast=False).run(given, Traffic(), cycles=True)
    assert outcome.faults(given) == []
    assert outcome.taken_at is not None
    assert {*np.diff(outcome.taken_at[:: length // 2].astype(int))} == {unit.interval(length)}


def entering(module: Any, at: str) -> Any:
    """Return a faulty `words_of` that gives one stage the words of the set whose row is entering."""
    right, entered = module.words_of, {}

    def wrong(m: Any, stage: str, sets: Any, number: Any, *names: str) -> Any:
        entered.setdefault(id(m), number)
        return right(m, stage, sets, entered[id(m)] if stage == at else number, *names)

    return wrong


@pytest.mark.parametrize(
    ("module", "stage", "spec"),
    [
        (consmax, "constant", NARROW_CONSMAX),
        slow(consmax, "output", NARROW_CONSMAX),
        slow(exaq, "sum", NARROW_EXAQ),
    ],
)
def test_a_stage_with_the_set_of_the_entering_row_is_detected(
    module: Any, stage: str, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = spec.examples()
    if stage == "output":  # uses only the limit, which is the same in all examples
        heads = [replace(heads[0], limit=limit) for limit in (63, 20, 5)]
    monkeypatch.setattr(module, "words_of", entering(module, stage))
    unit = spec.unit(**SHORT, sets=len(heads))
    assert not verify(unit, unit.loads(heads), outputs=4_000).passed


@pytest.mark.parametrize(
    ("module", "name", "wrong", "spec", "sizes"),
    [
        slow(serial, "held_set", lambda m, part, taken: part.source_set, NARROW_EXAQ, SERIAL),
        slow(sigmoid, "number_of_set", lambda scores: scores.p.mask[0], NARROW_SIGMOID, SHORT),
        slow(exaq, "number_of_set", lambda gathered: gathered.p.beat[0], NARROW_EXAQ, SHORT),
    ],
)
def test_a_wrong_set_is_detected(
    module: Any, name: str, wrong: Any, spec: Spec, sizes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, wrong)
    assert not verify(spec.unit(**sizes, sets=2), outputs=4_000).passed


def test_protocol_of_a_unit_with_sets() -> None:
    unit = Sigmoid(scores=Q(2, 0), output=UQ(0, 2)).unit(lanes=1, max_row=3, sets=2)
    proof = prove(unit, depth=10)
    assert proof.holds, str(proof)
    assert {verdict.outcome for verdict in proof.verdicts.values()} == {"proved"}


def test_addresses_and_writes() -> None:
    spec = NARROW_EXAQ
    unit, one = spec.unit(lanes=1, sets=4), spec.unit(lanes=1)
    assert isinstance(unit.registers, RegisterMap)
    assert (unit.registers.words, unit.registers.stride, unit.registers.address_bits) == (11, 16, 6)
    first, second = spec.examples()[:2]
    assert unit.writes(first) == one.writes(first)
    shifted = [(16 + address, word) for address, word in one.writes(second)]
    assert unit.writes(Sets((first, second))) == [*one.writes(first), *shifted]
    with pytest.raises(ValueError, match="this unit has 4 sets of constants, got 5"):
        unit.writes(Sets((first,) * 5))


@pytest.mark.parametrize(
    ("spec", "sizes", "message"),
    [
        (ConSmax(), {"sets": 17}, "from 1 to 16, not 17"),
        (ConSmax(), {"sets": 0}, "from 1 to 16, not 0"),
        (ConSmax(bits=16), {"sets": 2, "apart": True}, "leave apart or sets out"),
        (Sigmoid(), {"sets": 2, "constants": Sigmoid().examples()[0]}, "sets of constants must be loadable"),
        (Softermax(), {"sets": 2}, "does not support several sets of constants; leave out sets"),
    ],
)
def test_invalid_sets_are_refused(spec: Spec, sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec.unit(**sizes)
