"""A method with more bits in some layers than in others, by a budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformers import PreTrainedModel

from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.calibration import Batch, calibrate, inputs_of
from softmaxkit.models.evaluation import RealScores, watching_scores
from softmaxkit.models.patch import apply, layers
from softmaxkit.models.running import evaluating, run


def mix_bits(model: PreTrainedModel, spec: Spec, batches: Iterable[Batch], mean_bits: float) -> list[int]:
    """Put a method into a model, with the bits of each layer chosen, and calibrate it, in place.

    Every layer's error is measured with all bits that the spec may have (`Spec.by_bits`): the summed absolute
    difference of its probabilities to exact softmax of the same scores, a row on average. Of all choices within the
    budget, that of the least total is taken.

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
    errors = []
    for option in choices.values():
        calibrate(apply(model, option), batches)
        errors.append(_errors(model, batches))
    chosen = cheapest(list(zip(*errors, strict=True)), list(choices), int(mean_bits * len(errors[0]) + 1e-9))
    for place, bits in enumerate(chosen):
        apply(model, choices[bits], layers=[place])
    calibrate(model, batches)
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


def _errors(model: PreTrainedModel, batches: Sequence[Batch]) -> list[float]:
    """Return each layer's mean summed absolute error of a row."""
    totals, rows = (dict.fromkeys(layers(model), 0.0) for _ in range(2))

    def see(name: str, seen: RealScores) -> None:
        totals[name] += (seen.probabilities - seen.ideal).abs().sum().item()
        rows[name] += seen.attended.any(-1).sum().item()

    with evaluating(model), watching_scores(model, see):
        for batch in batches:
            run(model, inputs_of(batch))
    return [totals[name] / max(rows[name], 1) for name in totals]
