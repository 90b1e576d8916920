"""The real parameters of a ConSmax head, learned or calibrated: which there are, where they start, what they may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxkit.methods.base.constants import encode_scale

if TYPE_CHECKING:
    from softmaxkit.methods.consmax.spec import ConSmax

PARAMETERS = ("beta", "gamma", "scale", "largest")
"""Names of the learned ones, then of the calibrated ones."""


def start_values(spec: ConSmax, keys: int) -> dict[str, Any]:
    """Return the initial beta and gamma for rows of up to `keys` keys.

    With scores near 0, as at the start of training, a row of n keys sums to `n * exp(-beta) / gamma`. Under a causal
    mask n runs from 1 to `keys`, with a geometric mean of about `keys / e`; gamma makes a row of that length sum to 1.
    """
    return {"beta": spec.beta0, "gamma": spec.gamma0 or max(keys / math.e, 1.0) * math.exp(-spec.beta0)}


def beta_and_gamma(spec: ConSmax, parameters: Mapping[str, Any], keys: int) -> tuple[Any, Any]:
    """Return beta and gamma, numbers or arrays; those that are missing have the start values for `keys` keys.

    Raises:
        ValueError: beta is not finite, or gamma is not positive and finite.
    """
    values = {**start_values(spec, keys), **parameters}
    beta, gamma = values["beta"], values["gamma"]
    if not (np.all(np.isfinite(beta)) and np.all(np.isfinite(gamma)) and np.all(np.asarray(gamma) > 0)):
        raise ValueError(f"ConSmax requires a finite beta and a positive, finite gamma, got {beta} and {gamma}")
    return beta, gamma


def score_scale(spec: ConSmax, parameters: Mapping[str, Any]) -> tuple[int, int]:
    """Return the score scale, by default `spec.default_scale`, as in `Constants`.

    Raises:
        ValueError: it is not positive and finite, or not ln2/16 with tables="shift".
    """
    scale = float(parameters.get("scale", spec.default_scale))
    code = encode_scale(scale)
    if spec.tables == "shift" and code != encode_scale(spec.default_scale):
        raise ValueError(
            f"ConSmax.tables='shift' requires the score scale ln2/16 = {spec.default_scale:.7f}, got {scale}; "
            "leave the scale out, or use tables='split' or 'whole'"
        )
    return code


def largest_probability(spec: ConSmax, parameters: Mapping[str, Any]) -> float:
    """Return the largest probability of the head, by default `spec.ceiling`.

    Raises:
        ValueError: it is negative or not finite.
    """
    largest = float(parameters.get("largest", spec.ceiling))
    if not (math.isfinite(largest) and largest >= 0):
        raise ValueError(f"largest, the largest probability of a head, must be finite and >= 0, got {largest}")
    return largest
