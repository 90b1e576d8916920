"""The pipelines that a method supports, and the engine for each on given hardware."""

from __future__ import annotations

from softmaxkit.engine.engine import Engine
from softmaxkit.engine.golden import Attention
from softmaxkit.engine.limits import LARGEST
from softmaxkit.methods.base.spec import Spec
from softmaxkit.simulation.hardware import Hardware, HardwareError

LONGEST = LARGEST["max_keys"]
"""Maximum number of keys that an engine is built for; the cycles of longer rows are extrapolated."""


class CannotBuild(HardwareError):
    """An engine cannot be built with the hardware's arrays; the message names the keys."""


def pipelines_of(spec: Spec) -> tuple[str, ...]:
    """Return the pipelines for which a method has hardware: its own, and "deferred", with the division last."""
    own = "element" if spec.dataflow == "element" else "token"
    return (own,) if type(spec).deferred_unit is Spec.deferred_unit else (own, "deferred")


def engine_of(spec: Spec, pipeline: str, hardware: Hardware, channels: int, context: int) -> Engine:
    """Return an engine of the hardware, for rows of up to `context` keys, or `LONGEST` if that is fewer.

    Channels are padded to whole columns. In the deferred pipeline, a slice is at least one beat wide; since there is
    one maximum per slice, the integers are then those of the wider slice.

    Raises:
        CannotBuild: an engine with these arrays is not possible.
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
