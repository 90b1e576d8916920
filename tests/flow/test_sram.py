"""SRAM: macros from Liberty files, memories built from them, and the energy of accesses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from softmaxkit import ConSmax, Softermax
from softmaxkit.flow.activity import Activity
from softmaxkit.flow.cells.liberty import LibertyError
from softmaxkit.flow.cells.macros import Macro, macros_from_liberty
from softmaxkit.flow.sram import MACROS, Arrangement, Use, arranged, memories_in_use, memory_figures

OPENRAM_NAME = "sky130_sram_1kbyte_1rw1r_32x256_8"


def power(rise: float, fall: float, when: str = "") -> str:
    condition = f'when : "{when}";' if when else ""
    scalars = (f'{edge}_power (scalar) {{ values ("{value}"); }}' for edge, value in (("rise", rise), ("fall", fall)))
    return f"internal_power () {{ {condition} {' '.join(scalars)} }}"


def period(value: float) -> str:
    return f'timing () {{ timing_type : "minimum_period"; rise_constraint (scalar) {{ values ("{value}"); }} }}'


def liberty(clocks: str, name: str = "ram", library: str = "lib", memory: bool = True, area: float = 100.0) -> str:
    """Return the library of a macro of 256 words of 32 bits with a separate read port."""
    words = "memory () { type : ram; address_width : 8; word_width : 32; }" if memory else ""
    return f"""library ({library}) {{
      capacitive_load_unit (1, pf); voltage_unit : "1V"; time_unit : "1ns"; leakage_power_unit : "1mW";
      cell ({name}) {{ {words} area : {area}; cell_leakage_power : 0.0009117994;
        bus (din0) {{ memory_write () {{ address : addr0; clocked_on : clk0; }} }}
        bus (dout0) {{ memory_read () {{ address : addr0; }} }}
        bus (dout1) {{ memory_read () {{ address : addr1; }} }}
        {clocks}
      }}
    }}"""


def clock(name: str, content: str) -> str:
    return f"pin ({name}) {{ clock : true; direction : input; {content} }}"


def read(tmp_path: Path, text: str) -> Macro:
    file = tmp_path / "ram.lib"
    file.write_text(text)
    (macro,) = macros_from_liberty([file])
    return macro


def test_openram_files_equal_the_table(tmp_path: Path) -> None:
    # The figures of OpenRAM's file, in mW for a cycle with a 1 and one with a 0; it does not have the layout area.
    writing = power(2.226912, 2.371604, "!csb0 & !web0") + power(2.391613, 2.208443, "!csb0 & web0")
    resting = power(1.385490, 1.019682, "csb0 & !web0") + power(1.034863, 1.048424, "csb0 & web0")
    reading = power(2.843456, 2.581878, "!csb1") + power(1.071456, 1.008020, "csb1")
    clocks = clock("clk0", writing + resting + period(6.875)) + clock("clk1", reading + period(6.875))
    macro = read(tmp_path, liberty(clocks, OPENRAM_NAME, f"{OPENRAM_NAME}_TT_1p8V_25C_lib"))
    ours = MACROS["sky130"][0]
    assert (macro.name, macro.width, macro.depth, macro.ports) == (ours.name, ours.width, ours.depth, ours.ports)
    for name in ("write", "read", "idle", "leakage", "period"):
        assert getattr(macro, name) == pytest.approx(getattr(ours, name), rel=1e-12), name
    assert macro.write == pytest.approx((2.226912 + 2.371604) / 2 * 6.875, rel=1e-12)
    assert ours.area == pytest.approx(479.78 * 397.5)


def test_energies_of_edges_add_up(tmp_path: Path) -> None:
    apart = clock("clk0", power(1.0, 2.0, "!csb0 & !web0") + power(5.0, 5.0, "!csb0 & web0") + power(0.1, 0.1, "csb0"))
    macro = read(tmp_path, liberty(apart + clock("clk1", power(4.0, 0.5, "!csb1") + power(0.3, 0.0, "csb1"))))
    # Reads use the second port, and each port idles during an access of the other.
    assert macro.write == pytest.approx(3.0 + 0.3)
    assert macro.read == pytest.approx(4.5 + 0.2)
    assert macro.idle == pytest.approx(0.2 + 0.3)
    assert (macro.ports, macro.period) == (2, 0.0)
    alike = read(tmp_path, liberty(clock("clk", power(1.0, 2.0))))
    assert (alike.write, alike.read, alike.idle, alike.ports) == (3.0, 3.0, 3.0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (liberty(clock("clk0", power(1, 1)), memory=False), "no cell has a memory group"),
        (liberty(clock("clk0", power(1, 1)), area=0), "cell ram must have an area"),
        (liberty(clock("clk0", "")), "cell ram has no internal_power of its clock"),
        (liberty(""), "cell ram has no internal_power of its clock"),
        (liberty(clock("clk0", power(1, 1, "!turbo"))), "refers to the unknown pin turbo; known pins are csb"),
        (liberty(clock("clk0", power(1, 1)), "a", "a_TT_1p8V_25C_lib"), "has no minimum_period"),
        ("library (x) {", r"ram\.lib, line 1: library x is not closed"),
    ],
)
def test_incomplete_files(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(LibertyError, match=message) as error:
        read(tmp_path, text)
    assert "ram.lib" in str(error.value)


TWO = Macro("two", 32, 256, 2, 10.0, write=3.0, read=4.0, idle=1.0, leakage=0.0, period=5.0, source="")
ONE = Macro("one", 16, 64, 1, 1.0, write=3.0, read=4.0, idle=1.0, leakage=0.0, period=0.0, source="")


def test_memories_are_split_into_macros() -> None:
    assert arranged(33, 257, [TWO])[1:3] == (2, 2)
    assert arranged(32, 256, [TWO])[1:3] == (1, 1)
    # Single-port macros: twice the width, half the depth.
    assert arranged(8, 128, [ONE])[1:3] == (1, 1)
    assert arranged(9, 129, [ONE])[1:3] == (2, 2)
    assert arranged(8, 128, [TWO, ONE]).macro is ONE
    assert arranged(60, 256, [TWO, ONE]).macro is ONE  # 8 x 2 macros are still smaller
    split = arranged(33, 257, [TWO])
    assert (split.pieces, split.area) == (4, 40.0)
    assert split.used == pytest.approx(33 * 257 / (4 * 32 * 256))


def test_an_access_uses_one_row_of_macros() -> None:
    split = arranged(33, 257, [TWO])
    assert split.cycle(0, 0, 5.0) == pytest.approx(4 * 1.0)
    assert split.cycle(1, 0, 5.0) == pytest.approx(4 * 1.0 + 2 * 2.0)
    assert split.cycle(0.5, 1, 5.0) == pytest.approx(4 * 1.0 + 2 * (0.5 * 2.0 + 3.0))
    pairs = arranged(8, 128, [ONE])
    assert pairs.cycle(1, 1, 5.0) == pytest.approx(1.0 + (2.0 + 3.0) / 2)
    leaking = Arrangement(TWO._replace(leakage=1e6), 1, 1, 32, 256)
    assert leaking.cycle(0, 0, 5.0) - leaking.cycle(0, 0, 1.0) == pytest.approx(4.0)  # 1 mW over 4 ns


def test_published_macros() -> None:
    for process, macros in MACROS.items():
        for macro in macros:
            assert macro.area > 0.05 * macro.width * macro.depth * {"sky130": 20, "asap7": 0.2}[process]
            assert min(macro.write, macro.read) > macro.idle >= 0, macro.name
            assert macro.source.startswith("github.com/")


def test_accesses_are_counted() -> None:
    unit = Softermax().unit(lanes=1, max_row=256, storage="memory")
    (memory,) = unit.memories
    port = unit.signature.members[memory].signature
    outputs = {f"{memory}_write_enable": np.array([2]), f"{memory}_read_enable": np.array([3])}
    netlist: Any = SimpleNamespace(outputs=outputs)
    counts = np.array([0, 0, 75, 50])
    (use,) = memories_in_use(unit, netlist, Activity(100, counts, counts, counts), [TWO]).values()
    assert (use.writes, use.reads) == (0.75, 0.5)
    assert (use.arrangement.width, use.arrangement.depth) == (port.width, port.depth)
    assert memories_in_use(ConSmax().unit(lanes=1), netlist, Activity(1, counts, counts, counts), [TWO]) == {}


def test_figures_of_a_score() -> None:
    uses = {"rows": Use(arranged(9, 256, [TWO]), writes=1.0, reads=0.5)}
    figures = memory_figures(uses, clock=8.0, elements=0.5)
    assert figures["memory_energy_pj_per_element"] == pytest.approx((1.0 + 2.0 + 0.5 * 3.0) / 0.5)
    assert figures["memory_area_um2"] == 10.0
    assert figures["memory_fmax_mhz"] == pytest.approx(200.0)
    assert figures["memories"]["rows"]["writes_per_element"] == 2.0
    assert figures["memories"]["rows"]["used_percent"] == pytest.approx(100 * 9 / 32)
    none = memory_figures({}, clock=8.0, elements=1.0)
    assert none == {"memory_area_um2": 0, "memory_energy_pj_per_element": 0.0, "memories": {}}
