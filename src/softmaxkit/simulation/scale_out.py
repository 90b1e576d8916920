"""Attention with its keys split over chips: the partial results that chips exchange, and the time that takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softmaxkit.methods.base.metadata import Dataflow
from softmaxkit.methods.base.spec import Spec
from softmaxkit.simulation.chip import Run
from softmaxkit.simulation.hardware import Hardware
from softmaxkit.simulation.workload import Workload

NUMBER_BYTES = 4
"""Bytes per exchanged number."""


def numbers_exchanged(dataflow: Dataflow, channels: int) -> tuple[int, ...]:
    """Return the numbers per query in each of the successive exchanges of partial results; see `Spec.partial`.

    An element-wise method adds weighted values. A method with deferred division merges maximum, sum and weighted
    values. Any other first needs the maximum of the whole row, then the sum and weighted values.
    """
    return {"element": (channels,), "deferred": (channels + 2,), "row": (1, channels + 1)}[dataflow]


def has_parts(spec: Spec) -> bool:
    """Return whether a method has partial results, so that the keys of a row can be split."""
    return spec.dataflow == "element" or type(spec).partial is not Spec.partial


def exchange(
    spec: Spec,
    workload: Workload,
    hardware: Hardware,
    chips: int,
    tokens: int,
    done: Run,
    costs: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the figures of attention with keys split over chips, each of which runs every query on its own keys.

    Partial results are merged in ceil(log2(chips)) steps. In each, every chip sends its numbers for all heads and
    tokens of a layer to one other chip, and waits for those of that chip.

    Args:
        spec: the method.
        workload: the model.
        hardware: each of the chips.
        chips: number of chips, at least 1.
        tokens: queries per head.
        done: the run of one chip on its keys.
        costs: the figures of one chip, with `energy_uj` if known.

    Raises:
        ValueError: the method has no partial results.
    """
    if chips > 1 and not has_parts(spec):
        raise ValueError(f"{spec.title} has no partial results, so its keys cannot be split; omit --chips for it")
    numbers = numbers_exchanged(spec.dataflow, workload.channels) if chips > 1 else ()
    steps, links = (chips - 1).bit_length(), hardware.links
    queries = workload.heads * tokens
    waiting = 0.0
    for count in numbers:
        message = NUMBER_BYTES * count * queries
        waiting += workload.layers * steps * (links.latency_ns * 1e-9 + message / (links.bandwidth_gb_per_s * 1e9))
    sent = NUMBER_BYTES * sum(numbers) * queries * workload.layers * steps * chips
    on_links = 8e-6 * sent * links.energy_pj_per_bit
    seconds = hardware.seconds(done.cycles)
    energy = {"energy_uj": chips * costs["energy_uj"] + on_links} if "energy_uj" in costs else {}
    return {
        "chips": chips,
        "exchanges": len(numbers),
        "steps_per_exchange": steps,
        "bytes_per_query": NUMBER_BYTES * sum(numbers),
        "sent_bytes": sent,
        "computing_seconds": seconds,
        "waiting_seconds": waiting,
        "seconds": seconds + waiting,
        "link_energy_uj": on_links,
        **energy,
    }
