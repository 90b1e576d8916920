"""The memory that a call takes on the CPU, from torch's allocator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def memory_use(compute: Callable[[], Any]) -> tuple[int, int]:
    """Return the most memory that a call allocates at once, and what its result keeps, in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = compute()
    events = [x for x in profiler.profiler.kineto_results.events() if x.name() == "[memory]"]
    used, most = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        used += event.nbytes()
        most = max(most, used)
    del result
    return most, used
