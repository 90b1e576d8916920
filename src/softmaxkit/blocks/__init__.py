"""Amaranth building blocks shared by the hardware units of all methods: streams, pipelines, arithmetic, storage."""

from importlib.util import find_spec

if find_spec("amaranth") is None:
    raise ModuleNotFoundError(
        "hardware units need the package amaranth: pip install 'softmaxkit[hardware]'", name="amaranth"
    )
