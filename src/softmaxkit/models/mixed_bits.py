"""Choose the number of bits of each layer within a budget, so that the attention outputs have the least error."""

from __future__ import annotations

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
    """Apply a method to a model with the best number of bits for each layer, and calibrate it, in place.

    The error of each layer is measured with every number of bits that the spec offers (`Spec.by_bits`). It is the
    difference between the layer's attention output and that of exact softmax on the same scores and values: the norms
    of the difference vectors over those of the exact outputs, both summed over a sample of the queries. Of all choices
    within the budget, the one with the least total error is applied.

    Args:
        model: a model with exact softmax, or with methods, which are replaced.
        spec: the method, with all fields except the number of bits.
        batches: the calibration set, as for `softmaxkit.calibrate`.
        mean_bits: the budget, as the mean number of bits over the layers.

    Returns:
        The number of bits of each layer, in running order.

    Raises:
        ValueError: the budget is out of range, or the method has no choice of bits.
    """
    choices = spec.by_bits()
    if not choices:
        raise ValueError(f"{spec.title} has no choice of bits for each layer; apply it without mean bits")
    if not min(choices) <= mean_bits <= max(choices):
        raise ValueError(
            f"the mean bits of {spec.title} must be from {min(choices)} to {max(choices)}, got {mean_bits:g}"
        )
    batches = list(batches)
    calibrated: dict[int, dict[str, SoftmaxModule]] = {}
    for bits, option in choices.items():
        calibrate(apply(model, option), batches)
        calibrated[bits] = layers(model)
    errors = {name: _OutputErrors([modules[name] for modules in calibrated.values()]) for name in layers(model)}
    observe(apply(model, spec), errors, batches)  # applied anew, because `errors` runs the calibrated modules itself
    budget = int(mean_bits * len(errors) + 1e-9)
    chosen = cheapest([of_layer.relative for of_layer in errors.values()], list(choices), budget)
    for place, (name, bits) in enumerate(zip(errors, chosen, strict=True)):
        best = calibrated[bits][name]
        apply(model, best.spec, layers=[place])
        layers(model)[name].adopt({**best.calibration, "statistics": best.statistics})
    return chosen


def cheapest(errors: Sequence[Sequence[float]], choices: Sequence[int], budget: int) -> list[int]:
    """Return the number of bits of each layer that minimises the total error within a budget.

    Args:
        errors: for each layer, the error of each choice.
        choices: the numbers of bits to choose from.
        budget: the maximum sum of bits over the layers.

    Raises:
        ValueError: even the fewest bits in all layers exceed the budget.
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
    """A calibrator that compares the attention outputs of several modules for one layer with those of exact softmax.

    Attributes:
        modules: the calibrated modules to compare.
        totals: for each module, the summed norms of the differences.
        size: the summed norms of the exact outputs.
    """

    def __init__(self, modules: Sequence[SoftmaxModule]) -> None:
        self.modules = modules
        self.totals, self.size = [0.0] * len(modules), 0.0

    def observe(self, scores: Tensor, attended: Tensor, values: Tensor | None = None) -> Tensor:
        """Add one batch; return the probabilities of exact softmax, with which the model continues."""
        assert values is not None, "attention layers pass their values"
        exact = masked_softmax(scores, attended, self.modules[0].spec.base)
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
        """The error of each module, relative to the exact outputs."""
        return [total / self.size if self.size else 0.0 for total in self.totals]


def _summed_lengths(vectors: Tensor) -> float:
    return float(torch.linalg.vector_norm(vectors, dim=-1).sum(dtype=torch.float64))
