"""Unnamed wires are named after the signal they are computed for; names are unique, and all else is unchanged."""

from __future__ import annotations

import re

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from softmaxkit import ConSmax, Exaq, Softermax
from softmaxkit.flow.tools import find
from softmaxkit.flow.verilog import to_verilog
from softmaxkit.flow.wire_names import ANONYMOUS, name_wires

needs_yosys = pytest.mark.skipif(find("yosys") is None, reason="needs Yosys")

VERILOG = """\
module top(clk, a, b, sum);
  input clk;
  wire _0_;
  wire _1_;
  wire _2_;
  wire _3_;
  wire [3:0] _4_;
  reg count;
  assign _0_ = a & b;
  assign _1_ = ~ _0_;
  assign sum = _0_ | b;
  always_ff @(posedge clk)
    if (_1_) count <= 1'h0;
    else if (_2_) count <= sum;
  assign _2_ = a & sum;
  assign _3_ = a + b;
  other part (
    .first(_3_)
  );
  assign { sum_and, _4_[1:0] } = a - b;
endmodule
module other(first);
  input first;
endmodule
"""


def test_a_wire_is_named_after_the_nearest_signal_and_its_operation() -> None:
    text = name_wires(VERILOG)
    for line in (
        "assign sum_and_2 = a & b;",  # sum_and is taken
        "assign count_not = ~ sum_and_2;",
        "if (count_not) count <= 1'h0;",
        "else if (count_and) count <= sum;",
        ".first(part_first_sum)",
        "assign { sum_and, sum_and_whole[1:0] } = a - b;",
    ):
        assert line in text
    assert not ANONYMOUS.search(text)


@needs_yosys
@pytest.mark.parametrize(
    "spec",
    [Exaq(bits=3), *(pytest.param(spec, marks=pytest.mark.slow) for spec in (ConSmax(), Softermax()))],
    ids=lambda spec: spec.method,
)
def test_only_names_change_in_a_module(spec: object, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = spec.unit(lanes=2, max_row=16)  # type: ignore[attr-defined]
    named = to_verilog(unit, "unit")
    monkeypatch.setattr("softmaxkit.flow.verilog.name_wires", lambda text: text)
    plain = to_verilog(unit, "unit")
    assert ANONYMOUS.search(plain)
    assert not ANONYMOUS.search(named)
    assert "\\" not in named
    for before, after in zip(plain.split("\nmodule ")[1:], named.split("\nmodule ")[1:], strict=True):
        words, others = (re.findall(r"\w+|[^\w\s]", text) for text in (before, after))
        pairs = set(zip(words, others, strict=True))
        assert len(pairs) == len(set(words)) == len(set(others))  # names are mapped one to one
        assert all(word == other for word, other in pairs if not ANONYMOUS.fullmatch(word))


class Two(wiring.Component):
    """Two independent sums, the first with an optional term."""

    def __init__(self, more: bool) -> None:
        self.more = more
        super().__init__({"a": In(4), "b": In(4), "first": Out(4), "second": Out(4)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held = Signal(4)
        m.d.comb += self.first.eq(((self.a + self.b) & self.a) ^ (self.b - self.a) if self.more else self.a + self.b)
        m.d.sync += held.eq(((self.a ^ self.b) & ~self.b) + self.a)
        m.d.comb += self.second.eq(held)
        return m


@needs_yosys
def test_a_change_of_one_signal_leaves_other_names_unchanged() -> None:
    few, many = (set(re.findall(r"\bsecond_\w+", to_verilog(Two(more), "two"))) for more in (False, True))
    assert few == many
    assert few
