"""Units as Verilog: names that every tool takes, latches as latches, no initial values, parts on their own."""

from __future__ import annotations

import re

import pytest

from softmaxkit import ConSmax, Softermax
from softmaxkit.flow.tools import ToolError, find
from softmaxkit.flow.verilog import to_verilog
from softmaxkit.methods.softermax.normalisation import NormalisationUnit
from softmaxkit.methods.softermax.unnormalised import UnnormalisedUnit

pytestmark = pytest.mark.skipif(find("yosys") is None, reason="needs Yosys")


def ports(text: str, module: str) -> set[str]:
    header = re.search(rf"^module {module}\(([^)]*)\);", text, re.MULTILINE)
    assert header is not None
    return set(re.split(r",\s*", header[1]))


def test_names_are_plain_and_nothing_has_an_initial_value() -> None:
    text = to_verilog(Softermax().unit(lanes=2, max_row=8), "unit")
    streams = {f"{name}_{part}" for name in ("scores", "results") for part in ("valid", "ready", "payload")}
    assert ports(text, "unit") == {"clk", "rst"} | streams
    assert "\\" not in text
    assert "__" not in text
    assert not re.search(r"^\s*(reg|initial)\b[^;]*=", text, re.MULTILINE)


def test_latches_are_latches() -> None:
    text = to_verilog(ConSmax().unit(lanes=1, storage="latches"), "unit")
    assert text.count("always_latch") == 32
    assert "always_latch" not in to_verilog(ConSmax().unit(lanes=1), "unit")


def test_the_two_softermax_units_stand_alone() -> None:
    spec, registers = Softermax(), frozenset({"power", "product"})
    front = to_verilog(UnnormalisedUnit(spec, 4, 64, registers), "unnormalised")
    back = to_verilog(NormalisationUnit(spec, 4, registers), "normalisation")
    assert {"scores_payload", "powers_payload"} < ports(front, "unnormalised")
    assert {"totals_payload", "powers_payload", "results_payload"} < ports(back, "normalisation")


def test_a_design_that_yosys_refuses_is_an_error_with_its_words() -> None:
    with pytest.raises(ToolError, match=r"writing unit as Verilog(.|\n)*ERROR"):
        to_verilog(
            ConSmax().unit(lanes=1), "unit", fault=lambda design: design.replace("connect \\A", "connekt \\A", 1)
        )
