"""Integration logic around a unit: AXI4-Stream, AXI4-Lite, row lengths, errors and status, tags, SRAM macros."""

from importlib.util import find_spec

if find_spec("amaranth") is None:
    raise ModuleNotFoundError(
        "the shell of a unit needs the package amaranth: pip install 'softmaxkit[hardware]'", name="amaranth"
    )
