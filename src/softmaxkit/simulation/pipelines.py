"""The pipelines that a method allows, and the engine of each on some hardware."""

from __future__ import annotations

from softmaxkit.engine.engine import Engine
from softmaxkit.engine.golden import Attention
from softmaxkit.methods.base.spec import Spec
from softmaxkit.simulation.hardware import Hardware

LONGEST = 1 << 16
"""Keys that an engine is built for, at most; the cycles of longer rows follow from its own."""


class CannotBuild(ValueError):
    """An engine cannot be built on some hardware; the message has the key."""


def pipelines_of(spec: Spec) -> tuple[str, ...]:
    """Return the pipelines of which a method has hardware: its own, and that with the division last."""
    own = "element" if spec.dataflow == "element" else "token"
    return (own,) if type(spec).deferred_unit is Spec.deferred_unit else (own, "deferred")


def engine_of(spec: Spec, pipeline: str, hardware: Hardware, channels: int, context: int) -> Engine:
    """Return an engine of some hardware, for rows of up to `context` keys or `LONGEST`.

    Channels are padded to whole columns. With the division last, slices are a beat wide at least: its maximum is one of
    a slice, so the integers are those of the wider one.

    Raises:
        CannotBuild: not with these arrays.
    """
    arrays = hardware.arrays
    padded = -(-channels // arrays.columns) * arrays.columns
    try:
        sizes = (arrays.rows, arrays.columns, min(context, LONGEST))
        built = spec.sliced_for(arrays.rows) if pipeline == "deferred" else spec
        return Engine(Attention.of(built, padded), *sizes, storage="memory", pipeline=pipeline)
    except ValueError as error:
        raise CannotBuild(
            f"arrays.rows {arrays.rows}, arrays.columns {arrays.columns} and {spec.name}: {error}"
        ) from None
