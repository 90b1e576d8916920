"""What tests of units see to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from softmaxkit.flow.rows import random_rows
from softmaxkit.flow.simulate import Traffic, Verilated
from softmaxkit.flow.vectors import stream
from softmaxkit.methods.base.unit import SoftmaxUnit


def loaded_often(unit: SoftmaxUnit, constants: Sequence[Any] | None = None) -> None:
    """See that rows keep the constants that were loaded before them, however long their results have to wait."""
    simulator, random = Verilated(unit, fast=False), np.random.default_rng(0)
    constants = constants or unit.spec.examples()
    each = [constants[at % len(constants)] for at in range(200)]
    given = stream(unit, [(constants, random_rows(unit, constants, 6, random)) for constants in each])
    for traffic in (
        Traffic(stall=20, longest_stall=400),
        Traffic(gap=128, longest_gap=60, stall=64, longest_stall=100),
    ):
        outcome = simulator.run(given, traffic)
        assert not outcome.faults(given), "; ".join(outcome.faults(given))
