"""The pipelines that a method allows, and the engine of each on some hardware."""

from __future__ import annotations

from softmaxkit.engine.engine import Engine
from softmaxkit.engine.golden import Attention
from softmaxkit.methods.base.answers import Dataflow
from softmaxkit.methods.base.spec import Spec
from softmaxkit.simulation.hardware import Hardware

PIPELINES: dict[Dataflow, tuple[str, ...]] = {"element": ("element",), "row": ("token",), "deferred": ("token",)}
"""By what a method allows: "element", where no row waits; "token", row by row."""

NAMES = tuple(dict.fromkeys(name for names in PIPELINES.values() for name in names))

LONGEST = 1 << 16
"""Keys that an engine is built for, at most; the cycles of longer rows follow from its own."""


def pipelines_of(spec: Spec) -> tuple[str, ...]:
    """Return the pipelines of a method."""
    return PIPELINES[spec.dataflow]


def engine_of(spec: Spec, pipeline: str, hardware: Hardware, channels: int, context: int) -> Engine:
    """Return an engine of some hardware, for rows of up to `context` keys or `LONGEST`.

    Channels are padded to whole columns.

    Raises:
        ValueError: it cannot be built so; the message names the key.
    """
    arrays = hardware.arrays
    padded = -(-channels // arrays.columns) * arrays.columns
    try:
        return Engine(Attention.of(spec, padded), arrays.rows, arrays.columns, min(context, LONGEST), storage="memory")
    except ValueError as error:
        raise ValueError(
            f"arrays.rows {arrays.rows}, arrays.columns {arrays.columns} and {spec.name}: {error}"
        ) from None
