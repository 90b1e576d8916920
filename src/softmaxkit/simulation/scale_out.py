"""Attention with its keys split over chips: what a query's parts exchange, and how long they wait for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softmaxkit.methods.base.answers import Dataflow
from softmaxkit.methods.base.spec import Spec
from softmaxkit.simulation.chip import Run
from softmaxkit.simulation.hardware import Hardware
from softmaxkit.simulation.workload import Workload

NUMBER_BYTES = 4
"""Bytes of a number that parts exchange."""


def numbers_exchanged(dataflow: Dataflow, channels: int) -> tuple[int, ...]:
    """Return how many numbers a query's parts exchange, in each exchange after the other; see `Spec.partial`.

    An element-wise method adds weighted values. One whose division is deferred joins maximum, sum and weighted values.
    Any other first needs the maximum of the whole row, then sum and weighted values.
    """
    return {"element": (channels,), "deferred": (channels + 2,), "row": (1, channels + 1)}[dataflow]


def has_parts(spec: Spec) -> bool:
    """Return whether rows of a method can arrive in parts at all."""
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
    """Return the figures of keys split over chips, each of which has every query on its own keys.

    Parts are joined in as many steps as the number of chips has doublings, in each of which every chip sends its
    numbers of all heads and tokens of a layer to one other, and waits for those of that one.

    Args:
        spec: the method.
        workload: the model.
        hardware: of each chip.
        chips: 1 or more.
        tokens: queries of a head.
        done: the run of a chip on its keys.
        costs: of a chip: `energy_uj`, where it is known.

    Raises:
        ValueError: the method has no parts.
    """
    if chips > 1 and not has_parts(spec):
        raise ValueError(f"{spec.title} has no partial results, so its keys cannot be split; leave --chips out for it")
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
