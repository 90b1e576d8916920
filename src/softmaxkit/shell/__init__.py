"""What goes around a unit on a chip: AXI-Stream and AXI4-Lite, rows by number, errors and status, tags, SRAM macros."""

from importlib.util import find_spec

if find_spec("amaranth") is None:
    raise ModuleNotFoundError(
        "the shell of a unit needs the package amaranth: pip install 'softmaxkit[hardware]'", name="amaranth"
    )
