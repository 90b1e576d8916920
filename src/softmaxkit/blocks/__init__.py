"""Amaranth building blocks shared by the hardware units of all methods: streams, pipelines, arithmetic, storage."""

from importlib.util import find_spec
from warnings import filterwarnings

if find_spec("amaranth") is None:
    raise ModuleNotFoundError(
        "hardware units need the package amaranth: pip install 'softmaxkit[hardware]'", name="amaranth"
    )

from amaranth.hdl import UnusedElaboratable

# A unit may be made only for its cycle counts, its constants or its interface.
filterwarnings("ignore", category=UnusedElaboratable, module=r".*[/\\]softmaxkit[/\\]")
