"""Training in several processes, as torchrun starts them: the first one leads, the others take part in each training.

Only the first decides, measures, prints and writes. The others wait, and get whatever a training needs from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

Result = TypeVar("Result")

WAITING = timedelta(days=30)
"""How long the others wait for the next training, while the first one measures."""

_waiting: Any = None
"""The process group in which they wait; that of the trainings has torch's own time limit."""


def count() -> int:
    """Return how many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Is this the process that leads?"""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def connected() -> Iterator[None]:
    """Connect the processes; at the end of the block, the first one lets the others go.

    Raises:
        RuntimeError: they cannot be connected.
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
            of_first(None)
        distributed.destroy_process_group()


def of_first(value: Any) -> Any:
    """Return the value of the first process, in all of them; alone, the value."""
    if _waiting is None:
        return value
    from torch import distributed

    values = [value]
    distributed.broadcast_object_list(values, src=0, group=_waiting)
    return values[0]


def anywhere(condition: bool) -> bool:
    """Return whether a condition holds in any process."""
    if _waiting is None:
        return condition
    import torch
    from torch import distributed

    flag = torch.tensor(int(condition))
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


def together(training: Callable[..., Result], *arguments: Any, **own: Any) -> Result:
    """Run a training in all processes; called in the first one.

    Args:
        training: a function of a module.
        arguments: for it; the other processes get copies.
        own: further arguments, for the first process alone.
    """
    of_first((training, arguments))
    return training(*arguments, **own)


def follow(failures: tuple[type[Exception], ...]) -> None:
    """Take part in the trainings of the first process until it ends.

    Args:
        failures: ways for a training to end that all processes see alike; what follows is for the first to decide.
    """
    while (task := of_first(None)) is not None:
        training, arguments = task
        try:
            training(*arguments)
        except failures:
            continue


def share_of(batch: int) -> int:
    """Return how much of a batch each process takes.

    Raises:
        ValueError: it cannot be divided equally.
    """
    if batch % count():
        fitting = [processes for processes in range(1, batch + 1) if batch % processes == 0]
        raise ValueError(
            f"a batch of {batch} cannot be divided among {count()} processes; start {', '.join(map(str, fitting))}"
        )
    return batch // count()
