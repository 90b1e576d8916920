"""A method with more bits in some layers than in others, by a budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import masked_softmax, some_rows
from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.calibration import Batch, calibrate, observe
from softmaxkit.models.patch import apply, layers


def mix_bits(model: PreTrainedModel, spec: Spec, batches: Iterable[Batch], mean_bits: float) -> list[int]:
    """Put a method into a model, with the bits of each layer chosen, and calibrate it, in place.

    Every layer's error is measured with all bits that the spec may have (`Spec.by_bits`): how far the output of its
    attention is from that of exact softmax on the same scores and values, relative to that output (the lengths of the
    vectors, summed over some of the queries). Of all choices within the budget, that of the least total is taken.

    Args:
        model: exact, or with methods that are replaced.
        spec: everything but the bits.
        batches: to calibrate on, as for `softmaxkit.calibrate`.
        mean_bits: the budget: the mean over layers.

    Returns:
        the bits of each layer, in running order.

    Raises:
        ValueError: a budget that cannot be, or a method that has no choice of bits.
    """
    choices = spec.by_bits()
    if not choices:
        raise ValueError(f"{spec.title} has no choice of bits for each layer; apply it without mean bits")
    if not min(choices) <= mean_bits <= max(choices):
        raise ValueError(
            f"the mean bits of {spec.title} are from {min(choices)} to {max(choices)} here, not {mean_bits:g}"
        )
    batches = list(batches)
    calibrated: dict[int, dict[str, SoftmaxModule]] = {}
    for bits, option in choices.items():
        calibrate(apply(model, option), batches)
        calibrated[bits] = layers(model)
    errors = {name: _OutputErrors([modules[name] for modules in calibrated.values()]) for name in layers(model)}
    observe(apply(model, spec), errors, batches)  # with modules of its own, since those that are compared run inside
    budget = int(mean_bits * len(errors) + 1e-9)
    chosen = cheapest([of_layer.relative for of_layer in errors.values()], list(choices), budget)
    for place, (name, bits) in enumerate(zip(errors, chosen, strict=True)):
        best = calibrated[bits][name]
        apply(model, best.spec, layers=[place])
        layers(model)[name].adopt({**best.calibration, "statistics": best.statistics})
    return chosen


def cheapest(errors: Sequence[Sequence[float]], choices: Sequence[int], budget: int) -> list[int]:
    """Return a choice for each layer of least total error, whose sum is within a budget.

    Args:
        errors: of each layer, by choice.
        choices: the bits.
        budget: of them all.

    Raises:
        ValueError: not even the smallest choices fit.
    """
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for layer in errors:
        following: dict[int, tuple[float, list[int]]] = {}
        for spent, (total, chosen) in best.items():
            for bits, error in zip(choices, layer, strict=True):
                candidate = (total + error, [*chosen, bits])
                if spent + bits <= budget and candidate < following.get(spent + bits, (float("inf"), [])):
                    following[spent + bits] = candidate
        best = following
    if not best:
        raise ValueError(f"a budget of {budget} bits is too small for {len(errors)} layers")
    return min(best.values())[1]


class _OutputErrors:
    """A calibrator that compares several modules for one layer with exact softmax, on the output of its attention.

    Attributes:
        modules: calibrated.
        totals: summed lengths of the differences, by module.
        size: summed length of the exact outputs.
    """

    def __init__(self, modules: Sequence[SoftmaxModule]) -> None:
        self.modules = modules
        self.totals, self.size = [0.0] * len(modules), 0.0

    def observe(self, scores: Tensor, attended: Tensor, values: Tensor | None = None) -> Tensor:
        """Take in one batch; the model goes on with exact softmax."""
        assert values is not None, "attention layers give their values"
        exact = masked_softmax(scores * math.log(self.modules[0].spec.base), attended)
        some = [some_rows(x).contiguous() for x in (scores, attended, exact)]
        values = values.to(exact.dtype)
        self.size += _summed_lengths(some[2] @ values)
        for index, module in enumerate(self.modules):
            self.totals[index] += _summed_lengths((module(some[0], some[1]) - some[2]) @ values)
        return exact

    def finish(self) -> dict[str, Any]:
        """Return nothing to adopt."""
        return {}

    @property
    def relative(self) -> list[float]:
        """The error of every module, relative to the exact output."""
        return [total / self.size if self.size else 0.0 for total in self.totals]


def _summed_lengths(vectors: Tensor) -> float:
    return float(torch.linalg.vector_norm(vectors, dim=-1).sum(dtype=torch.float64))
