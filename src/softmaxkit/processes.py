"""Training in several processes under torchrun: rank 0 leads, and the other ranks take part in each training run.

Only rank 0 decides, measures, prints and writes. The others wait, and receive from it all that a training run needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

Result = TypeVar("Result")

WAITING = timedelta(days=30)
"""How long the other ranks wait for the next training run while rank 0 measures."""

_waiting: Any = None
"""The process group in which they wait; training runs use the default group, with torch's own timeout."""


def count() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Return whether this process is rank 0."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def connected() -> Iterator[None]:
    """Connect the processes; at the end of the block, rank 0 releases the others.

    Raises:
        RuntimeError: the processes cannot be connected.
    """
    import torch
    from torch import distributed

    global _waiting
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    _waiting = distributed.new_group(backend="gloo", timeout=WAITING)
    try:
        yield
    finally:
        if is_first():
            broadcast(None)
        _waiting = None
        distributed.destroy_process_group()


def broadcast(value: Any) -> Any:
    """Return rank 0's value in every process; in a single process, return `value`."""
    if _waiting is None:
        return value
    from torch import distributed

    values = [value]
    distributed.broadcast_object_list(values, src=0, group=_waiting)
    return values[0]


def in_any_process(condition: bool) -> bool:
    """Return whether a condition is true in any process."""
    if _waiting is None:
        return condition
    import torch
    from torch import distributed

    flag = torch.tensor(int(condition))
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


def run_together(training: Callable[..., Result], *arguments: Any, **own: Any) -> Result:
    """Run a training function in all processes; call this in rank 0.

    Args:
        training: a module-level function, so that it can be pickled.
        arguments: its positional arguments; the other processes receive copies.
        own: keyword arguments for rank 0 only.
    """
    broadcast((training, arguments))
    return training(*arguments, **own)


def follow(failures: tuple[type[Exception], ...]) -> None:
    """Take part in the training runs of rank 0 until it finishes.

    Args:
        failures: exceptions of a training run that every process raises alike; rank 0 decides how to go on.
    """
    while (task := broadcast(None)) is not None:
        training, arguments = task
        try:
            training(*arguments)
        except failures:
            continue


def share_of(batch: int) -> int:
    """Return the number of examples of a batch per process.

    Raises:
        ValueError: the batch cannot be divided equally.
    """
    if batch % count():
        divisors = [processes for processes in range(1, batch + 1) if batch % processes == 0]
        raise ValueError(
            f"a batch of {batch} cannot be divided equally among {count()} processes; "
            f"start {', '.join(map(str, divisors))}"
        )
    return batch // count()
