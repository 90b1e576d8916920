"""Units as Verilog: plain names, latches, no initial values, and parts on their own."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import Component, In, Out

from softmaxkit import ConSmax, Softermax
from softmaxkit.flow.readable import comment_modules, name_elements, name_ports
from softmaxkit.flow.tools import ToolError, find
from softmaxkit.flow.verilog import to_rtlil, to_verilog
from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.methods.softermax.normalisation import NormalisationUnit
from softmaxkit.methods.softermax.unnormalised import UnnormalisedUnit

pytestmark = pytest.mark.skipif(find("yosys") is None, reason="needs Yosys")


def ports(text: str, module: str) -> set[str]:
    header = re.search(rf"^module {module}\(([^)]*)\);", text, re.MULTILINE)
    assert header is not None
    return set(re.split(r",\s*", header[1]))


@pytest.fixture(scope="module")
def softermax() -> tuple[SoftmaxUnit, str]:
    """Return a unit, and its Verilog."""
    unit = Softermax().unit(lanes=2, max_row=8)
    return unit, to_verilog(unit, "unit")


def test_names_are_plain_and_nothing_has_an_initial_value(softermax: tuple[SoftmaxUnit, str]) -> None:
    _, text = softermax
    streams = {f"{name}_{part}" for name in ("scores", "results") for part in ("valid", "ready", "payload")}
    assert ports(text, "unit") == {"clk", "rst"} | streams
    assert "\\" not in text
    assert "__" not in text
    assert not re.search(r"^\s*(reg|initial)\b[^;]*=", text, re.MULTILINE)


def test_ports_have_names_and_the_text_is_stable(
    softermax: tuple[SoftmaxUnit, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit, text = softermax
    monkeypatch.setenv("SOFTMAXKIT_CACHE", str(tmp_path))  # nothing is cached there
    assert to_verilog(unit, "unit") == text
    assert not re.search(r"\bport_\d+_\d+\b", text)
    assert {"source_valid", "powers_ready", "totals_payload_total_port", "totals_payload_highest_port"} < ports(
        text, "unit_back"
    )
    assert "port_1_0" not in name_ports("module \\a\n  wire \\port_1_0\nconnect \\sum \\port_1_0 [3:0]\nend\n")


class Inverter(Component):
    """An inverter whose statement is in one of two lines."""

    def __init__(self, late: bool = False) -> None:
        self.late = late
        super().__init__({"a": In(1), "y": Out(1)})

    def elaborate(self, platform: object) -> Module:
        self.collected = gc.isenabled()
        m = Module()
        if self.late:
            m.d.comb += self.y.eq(~self.a)
        else:
            m.d.comb += self.y.eq(~self.a)
        return m


def test_a_design_is_written_once_wherever_its_source_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTMAXKIT_CACHE", str(tmp_path))
    text = to_verilog(Inverter(), "inverter")
    monkeypatch.setattr("softmaxkit.flow.yosys.call", lambda *_: pytest.fail("Yosys ran again"))
    assert to_verilog(Inverter(late=True), "inverter") == text


def test_garbage_is_not_collected_during_the_conversion() -> None:
    inverter = Inverter()
    to_rtlil(inverter, "inverter")
    assert not inverter.collected
    assert gc.isenabled()


def test_elements_have_plain_names() -> None:
    assert name_elements("wire \\a[0]\nwire \\a_0\nconnect \\a[0] [1] \\b [0]\n") == (
        "wire \\a_0_element\nwire \\a_0\nconnect \\a_0_element [1] \\b [0]\n"
    )


def test_a_design_is_searched_as_often_however_many_names_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def searches(count: int) -> int:
        """Return how often half of the design or more is searched or substituted in."""
        names = "".join(f"connect \\sum{i} \\port_{i}_0 [3:0]\nwire \\a[{i}]\n" for i in range(count))
        lengths: list[int] = []

        def counting(function: Callable[..., Any], text: int) -> Callable[..., Any]:
            def counted(*args: Any) -> Any:
                lengths.append(len(args[text]))
                return function(*args)

            return counted

        with monkeypatch.context() as patched:
            for name, text in (("findall", 1), ("search", 1), ("sub", 2)):
                patched.setattr(re, name, counting(getattr(re, name), text))
            name_elements(name_ports("".join(f"module \\m{i}\n{names}end\n" for i in range(2))))
        return sum(length >= len(names) for length in lengths)

    assert searches(10) == searches(100)


def test_every_module_has_a_comment(softermax: tuple[SoftmaxUnit, str]) -> None:
    unit, text = softermax
    commented = comment_modules(text, unit, "unit")
    assert re.sub(r"(?m)^// .*\n", "", commented) == text
    headers = re.findall(r"(?m)^(// \S.*\n)?module (\w+)", commented)
    assert all(comment for comment, _ in headers), headers
    assert headers[0][0].startswith("// Softermax: ")


def test_latches_are_latches() -> None:
    text = to_verilog(ConSmax().unit(lanes=1, storage="latches"), "unit")
    assert text.count("always_latch") == 32
    assert "always_latch" not in to_verilog(ConSmax().unit(lanes=1), "unit")


def test_the_two_softermax_units_stand_alone() -> None:
    spec, registers = Softermax(), frozenset({"power", "product"})
    front = to_verilog(UnnormalisedUnit(spec, 4, 64, registers), "unnormalised")
    back = to_verilog(NormalisationUnit(spec, 4, 64, registers), "normalisation")
    assert {"scores_payload", "powers_payload"} < ports(front, "unnormalised")
    assert {"totals_payload", "powers_payload", "results_payload"} < ports(back, "normalisation")


def test_an_error_of_yosys_is_passed_on() -> None:
    with pytest.raises(ToolError, match=r"writing unit as Verilog(.|\n)*ERROR"):
        to_verilog(
            ConSmax().unit(lanes=1), "unit", fault=lambda design: design.replace("connect \\A", "connekt \\A", 1)
        )
