"""Advice from the data: which method to choose for a chip and for a model, and which number formats are too narrow."""

from collections.abc import Sequence

from softmaxkit.report.columns import number, seeds_of
from softmaxkit.report.finding import tied
from softmaxkit.report.record import Variant
from softmaxkit.report.trade_off import LOSS, Point, has_memory, points

ACCEPTABLE_PERCENT = 1.0
"""The largest increase of the loss for which the advice prefers a cheaper unit."""

FORMATS_PERCENT = 0.5
"""Increase of the loss from floating point to integers, in points, beyond which formats count as too narrow."""

_area, _energy = number(",.0f", " µm²"), number(",.3g", " pJ")


def advice(variants: Sequence[Variant]) -> list[str]:
    """Return the sentences for which the data suffice."""
    sentences = (_for_a_chip(variants), _for_a_model(variants), *lost_to_formats(variants))
    return [sentence for sentence in sentences if sentence]


def _for_a_chip(variants: Sequence[Variant]) -> str:
    """Recommend the unit of least energy among those whose integers stay within `ACCEPTABLE_PERCENT`."""
    candidates = points(variants)
    exact = next((point for point in candidates if point.variant.method.is_baseline), None)
    others = [point for point in candidates if not point.variant.method.is_baseline]
    if not others:
        return ""
    acceptable = [point for point in others if point.loss <= ACCEPTABLE_PERCENT]
    if not acceptable:
        best = min(others, key=lambda point: point.loss)
        return (
            f"For a chip: no unit stays within a {ACCEPTABLE_PERCENT:g}% increase of the loss; the closest is "
            f"{_unit(best)} ({_change(best.loss)}, {_energy(best.energy)} per score)."
        )
    best = min(acceptable, key=lambda point: point.energy)
    against = f", compared with {_costs(exact)} for {_unit(exact)}" if exact is not None else ""
    change = f"{_change(best.loss)}{_seeds(best.variant, 'integer')}"
    memory = ", row memory included" if has_memory(variants) else ""
    return (
        f"For a chip: {_unit(best)} is the unit of least energy within a {ACCEPTABLE_PERCENT:g}% increase of the loss "
        f"in exact integers ({change}): {_costs(best)}{against}{memory}."
    )


def _for_a_model(variants: Sequence[Variant]) -> str:
    """Name the approximations with the lowest loss in floating point, without training and with training."""
    approximations = (variant for variant in variants if not variant.method.is_baseline)
    measured = (variant for variant in approximations if variant.figure(LOSS, "float") is not None)
    ranked = sorted(measured, key=lambda variant: variant.figure(LOSS, "float") or 0.0)
    untrained = [variant for variant in ranked if not _is_trained(variant)]
    trained = [variant for variant in ranked if variant not in untrained]
    parts = []
    for group, condition in ((untrained, "without retraining"), (trained, "with training")):
        if not group:
            continue
        best, *rest = group
        ties = [other for other in rest if tied(best, other, "float")]
        also = f", tied with {len(ties)} other{'s' if len(ties) > 1 else ''}" if ties else ""
        change = f"{_change(best.figure(LOSS, 'float'))}{_seeds(best, 'float')}"
        parts.append(f"{condition}, {_name(best)} has the lowest loss ({change}{also})")
    return f"For a model, in floating point: {'; '.join(parts)}." if parts else ""


def lost_to_formats(variants: Sequence[Variant]) -> list[str]:
    """Return a sentence for each method whose integers lose far more than its floating point, for its worst variant."""
    worst: dict[str, tuple[float, str]] = {}
    for variant in variants:
        real, integers = variant.figure(LOSS, "float"), variant.figure(LOSS, "integer")
        if real is None or integers is None or integers - real <= FORMATS_PERCENT:
            continue
        sentence = (
            f"The number formats of {_name(variant)} are too narrow here: {_change(real)} in floating point, "
            f"{_change(integers)} in integers; softmaxkit recommend searches for sufficient ones."
        )
        worst[variant.method.title] = max(worst.get(variant.method.title, (0.0, "")), (integers - real, sentence))
    return [sentence for _, sentence in worst.values()]


def _change(percent: float | None) -> str:
    return f"{round(percent or 0.0, 2) + 0.0:+.2f}%"


def _name(variant: Variant) -> str:
    return f"{variant.method.title} ({variant.name})" if variant.name else variant.method.title


def _unit(point: Point) -> str:
    title = point.variant.method.title
    return f"{title} ({point.name})" if point.name else title


def _costs(point: Point) -> str:
    return f"{_area(point.area)} and {_energy(point.energy)} per score"


def _seeds(variant: Variant, mode: str) -> str:
    """Return the number of seeds behind a figure, or nothing if the model was not trained."""
    result = variant.results[mode]
    if not result.get("trained_steps"):
        return ""
    count = len(seeds_of(result))
    return f", {count} seeds" if count > 1 else ", one seed"


def _is_trained(variant: Variant) -> bool:
    """Return whether the model was trained with the method in it."""
    result = next(iter(variant.results.values()))
    return bool(result.get("trained_steps")) and not str(result.get("training_description", "")).endswith("calibrated")
