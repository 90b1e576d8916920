"""Arrays as netlists: their stimuli, that every output is compared, and that a wrong one is detected."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.engine.engine import Engine
from softmaxkit.engine.golden import Attention
from softmaxkit.flow.simulate import can_verilate
from softmaxkit.methods import METHODS
from softmaxkit.simulation import arrays
from softmaxkit.simulation.arrays import QUERY_KEY, UNIT, VALUE, measure_array
from softmaxkit.simulation.driven import drive
from softmaxkit.simulation.stimuli import KEYS, QUERIES, Sample, of_scores

pytestmark = pytest.mark.filterwarnings("ignore:.*created but never used")


def engine(pipeline: str = "token", method: str = "softermax") -> Engine:
    return Engine(Attention.of(METHODS[method](), 2), 2, 1, 64, pipeline=pipeline)


def test_the_sample_equals_golden_attention() -> None:
    own = engine()
    sample = Sample.of(own)
    assert sample.outputs.shape == (QUERIES, 2)
    assert (sample.scores == own.attention.scores(sample.queries, sample.keys)).all()
    words = of_scores(own, sample)
    # Two cycles per beat of two keys, and one for the reset.
    assert {len(values) for values in words.inputs.values()} == {QUERIES * KEYS // 2 * 2 + 1}
    assert len(words.expected) == QUERIES * KEYS // 2


class Delay(wiring.Component):
    """A register of 8 bits."""

    def __init__(self) -> None:
        super().__init__({"d": In(8), "q": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.q.eq(self.d)
        return m


@pytest.mark.skipif(not can_verilate(), reason="Verilator is not installed")
def test_a_netlist_gets_every_input(no_python: None) -> None:
    """The last one too, which Verilator 5.006 does not read if its line does not end."""
    assert drive(Delay(), {"d": [7, 3, 200, 91]}, "sky130").outputs == {"q": [0, 3, 200, 91]}


@pytest.mark.slow
@pytest.mark.skipif(not can_verilate(), reason="Verilator is not installed")
@pytest.mark.parametrize(
    ("method", "name", "pipeline"),
    [
        ("softermax", QUERY_KEY, "token"),
        ("softermax", VALUE, "token"),
        *((method, name, "deferred") for method in ("softermax", "exact") for name in (VALUE, UNIT)),
    ],
)
def test_a_netlist_is_compared_with_the_integers(
    method: str, name: str, pipeline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = engine(pipeline, method)
    driven = measure_array(own, name, "sky130")
    assert driven.area_um2 > 1000
    assert driven.energy_pj_per_cycle > 1
    made_by = {QUERY_KEY: "of_scores", VALUE: "of_values", UNIT: "of_unit"}[name]
    words = getattr(arrays, made_by)(own, Sample.of(own))
    wrong = words._replace(expected=[*words.expected[:9], words.expected[9] ^ 1, *words.expected[10:]])
    monkeypatch.setattr(arrays, made_by, lambda *_: wrong)
    with pytest.raises(RuntimeError, match=f"1 of .* outputs of the {name} array differ from the golden model"):
        measure_array(own, name, "sky130")
