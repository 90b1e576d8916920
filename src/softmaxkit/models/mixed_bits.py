"""EXAQ with more bits in some layers than in others, by a budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from transformers import PreTrainedModel

from softmaxkit.methods.exaq import Exaq
from softmaxkit.models.calibration import Batch, calibrate, inputs_of
from softmaxkit.models.evaluation import RealScores, watching_scores
from softmaxkit.models.patch import apply, layers
from softmaxkit.models.running import evaluating, run

Bits = Literal[2, 3, 4]
CHOICES: tuple[Bits, ...] = (2, 3, 4)


def mix_bits(model: PreTrainedModel, spec: Exaq, batches: Iterable[Batch], mean_bits: float) -> list[Bits]:
    """Put EXAQ into a model, with the bits of each layer chosen, and calibrate it, in place.

    Every layer's error is measured with 2, 3 and 4 bits: the summed absolute difference of its probabilities to exact
    softmax of the same scores, a row on average. Of all choices within the budget, that of the least total is taken.

    Args:
        model: exact, or with methods that are replaced.
        spec: everything but the bits.
        batches: to calibrate on, as for `softmaxkit.calibrate`.
        mean_bits: the budget, 2 to 4: the mean over layers.

    Returns:
        the bits of each layer, in running order.

    Raises:
        ValueError: a budget that cannot be.
    """
    if not CHOICES[0] <= mean_bits <= CHOICES[-1]:
        raise ValueError(f"the mean bits of EXAQ are from {CHOICES[0]} to {CHOICES[-1]}, not {mean_bits}")
    batches = list(batches)
    choices = [bits for bits in CHOICES if bits != 3 or spec.clip != "laplace"]  # which has no fit for 3
    errors = []
    for bits in choices:
        calibrate(apply(model, replace(spec, bits=bits)), batches)
        errors.append(_errors(model, batches))
    chosen = cheapest(list(zip(*errors, strict=True)), choices, int(mean_bits * len(errors[0]) + 1e-9))
    for place, bits in enumerate(chosen):
        apply(model, replace(spec, bits=bits), layers=[place])
    calibrate(model, batches)
    return chosen


def cheapest(errors: Sequence[Sequence[float]], choices: Sequence[Bits], budget: int) -> list[Bits]:
    """Return a choice for each layer of least total error, whose sum is within a budget.

    Args:
        errors: of each layer, by choice.
        choices: the bits.
        budget: of them all.

    Raises:
        ValueError: not even the smallest choices fit.
    """
    best: dict[int, tuple[float, list[Bits]]] = {0: (0.0, [])}
    for layer in errors:
        following: dict[int, tuple[float, list[Bits]]] = {}
        for spent, (total, chosen) in best.items():
            for bits, error in zip(choices, layer, strict=True):
                if spent + bits <= budget and (found := (total + error, [*chosen, bits])) < following.get(
                    spent + bits, (float("inf"), [])
                ):
                    following[spent + bits] = found
        best = following
    if not best:
        raise ValueError(f"a budget of {budget} bits is too small for {len(errors)} layers")
    return min(best.values())[1]


def _errors(model: PreTrainedModel, batches: Sequence[Batch]) -> list[float]:
    """Return each layer's mean summed absolute error of a row."""
    found = {name: [0.0, 0.0] for name in layers(model)}

    def see(name: str, seen: RealScores) -> None:
        found[name][0] += (seen.probabilities - seen.ideal).abs().sum().item()
        found[name][1] += seen.attended.any(-1).sum().item()

    with evaluating(model), watching_scores(model, see):
        for batch in batches:
            run(model, inputs_of(batch))
    return [total / max(rows, 1) for total, rows in found.values()]
