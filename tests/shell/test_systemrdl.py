"""Registers as SystemRDL: a compiler reads back the map, and PeakRDL exports HTML, IP-XACT and a C header."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, PackageLoader, StrictUndefined

from softmaxkit.methods import ALL_METHODS, method_class
from softmaxkit.shell.options import ShellOptions
from softmaxkit.shell.register_map import VERSION, RegisterMap, register_map

systemrdl: Any = pytest.importorskip("systemrdl", reason="needs PeakRDL: pip install 'softmaxkit[registers]'")

OPTIONS = {
    "status": {"status": True},
    "row length": {"row_length": True},
    "all": {"status": True, "row_length": True},
    "copy": {"status": True, "read_back": True},
    "tags": {"status": True, "tags": 5},
}


def registers_of(method: str, options: dict[str, Any]) -> RegisterMap | None:
    """Return the map of a unit with an AXI4-Lite port; None if the unit does not support the options."""
    unit, chosen = method_class(method)().unit(lanes=2, max_row=10), ShellOptions(axi_lite=True, **options)
    if chosen.read_back and unit.registers is None:
        return None
    chosen.check(unit)
    return register_map(unit, chosen)


def written(registers: RegisterMap, folder: Path) -> Path:
    templates = Environment(
        loader=PackageLoader("softmaxkit.flow"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    path = folder / "unit.rdl"
    path.write_text(templates.get_template("registers.rdl.j2").render(name="unit", map=registers, version=VERSION))
    return path


def compiled(path: Path) -> Any:
    compiler = systemrdl.RDLCompiler()
    compiler.compile_file(str(path))
    return compiler.elaborate().top


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("method", ALL_METHODS)
def test_a_compiler_reads_the_map(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    registers = registers_of(method, options)
    if registers is None:
        pytest.skip("no constants to read back")
    nodes = {}
    for node in compiled(written(registers, tmp_path)).descendants(unroll=True):
        if isinstance(node, systemrdl.node.RegNode):
            fields = {
                field_node.inst_name: (field_node.low, field_node.width, field_node) for field_node in node.fields()
            }
            nodes[node.absolute_address] = (node.inst_name, fields)
    assert [*nodes] == sorted(nodes)
    for register in registers.registers:
        name, fields = nodes.pop(register.address)
        assert name == register.name
        at = 0
        for field in register.fields:
            low, width, node = fields.pop(field.name)
            assert (low, width, node.get_property("reset")) == (at, field.bits, field.reset)
            assert node.is_sw_writable == (field.access not in ("constant", "read"))
            assert node.is_sw_readable == (field.access != "pulse")
            cleared = {"clear ones": systemrdl.rdltypes.OnWriteType.woclr, "clear": systemrdl.rdltypes.OnWriteType.wclr}
            assert node.get_property("onwrite") == cleared.get(field.access)
            at += field.bits
        if register.sign_bits:
            low, width, node = fields.pop("sign")
            assert (low, width, node.is_sw_writable) == (at, register.sign_bits, False)
        assert not fields
    for of_set in range(registers.sets):
        for table in registers.tables:
            for word in range(table.words):
                address = registers.base + of_set * registers.stride + table.address + 4 * word
                name, fields = nodes.pop(address)
                low, width, node = fields["word"]
                assert (name, low, width) == (table.name, 0, table.bits)
                assert (node.is_sw_writable, node.is_sw_readable) == (True, registers.readable)
                # A copy has all bits of the widest word, also of a narrower one: what is written is read.
                declared = sum(width for _, width, _ in fields.values())
                assert declared == (registers.data_bits if registers.readable else table.bits)
    assert not nodes


def test_exports_of_peakrdl(tmp_path: Path) -> None:
    """With the commands of `make registers`."""
    for exporter in ("peakrdl_html", "peakrdl_ipxact", "peakrdl_cheader"):
        pytest.importorskip(exporter)
    maps = [registers_of(method, OPTIONS["tags"]) for method in ALL_METHODS]
    registers = next(candidate for candidate in maps if candidate is not None and candidate.sets > 1)
    written(registers, tmp_path)
    makefile = (files("softmaxkit.flow") / "templates" / "shell.mk.j2").read_text()
    commands = [line.split("$(PEAKRDL) ")[1] for line in makefile.splitlines() if "\t$(PEAKRDL)" in line]
    assert len(commands) == 3
    for command in commands:
        words = command.replace("{{ name }}", "unit").split()
        peakrdl = [sys.executable, "-c", "from peakrdl.main import main; main()", *words]
        subprocess.run(peakrdl, cwd=tmp_path, check=True, capture_output=True)
    made = tmp_path / "registers"
    header, packaged = (made / "unit.h").read_text(), (made / "unit.xml").read_text()
    for register in registers.registers:
        assert f"UNIT_REGISTERS__{register.name.upper()}__" in header
        assert f"<ipxact:name>{register.name}</ipxact:name>" in packaged
    assert (made / "html" / "index.html").is_file()
