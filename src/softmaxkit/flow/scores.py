"""A sample of attention scores of a real model, bundled for measuring the activity of units.

`benchmarks/sample_scores.py` makes the sample.
"""

from __future__ import annotations

import io
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from softmaxkit.flow.vectors import Rows
from softmaxkit.formats import Array

if TYPE_CHECKING:
    from softmaxkit.methods.base.constants import Constants
    from softmaxkit.methods.base.spec import Spec

FILE = "scores.npy"
KEYS = 256


@cache
def sample() -> Array:
    """Return the sample; float64, (rows, 256)."""
    scores: Array = np.load(io.BytesIO((files("softmaxkit.flow") / FILE).read_bytes())).astype(np.float64)
    return scores


def sampled_rows(spec: Spec, constants: Constants, count: int, length: int) -> Rows:
    """Return rows of the sample as codes of a spec, starting over if the sample has too few.

    Args:
        spec: the method.
        constants: of one head.
        count: number of rows.
        length: scores per row; the sample has 256, which longer rows repeat.
    """
    values = np.resize(sample(), (count, KEYS))
    values = np.tile(values, -(-length // KEYS))[:, :length]
    codes = np.asarray(spec.encode(values, constants)).astype(np.int64)
    return Rows(codes, np.ones(codes.shape, np.bool_), np.full(count, length))
