"""Which should I take? Two sentences from the data, for a chip and for a model, and which formats do not hold."""

from collections.abc import Sequence

from softmaxkit.report.columns import number, seeds_of
from softmaxkit.report.finding import tied
from softmaxkit.report.record import Variant
from softmaxkit.report.trade_off import LOSS, Point, has_memory, points

ACCEPTABLE_PERCENT = 1.0
"""A change of the loss up to which a cheaper unit is worth having, for the advice; the page shows all of them."""

FORMATS_PERCENT = 0.5
"""Formats that lose more than this beyond what the method itself loses are warned of."""

_area, _energy = number(",.0f", " µm²"), number(",.3g", " pJ")


def advice(variants: Sequence[Variant]) -> list[str]:
    """Return the sentences, those that the data have an answer for."""
    sentences = (_for_a_chip(variants), _for_a_model(variants), *lost_to_formats(variants))
    return [sentence for sentence in sentences if sentence]


def _for_a_chip(variants: Sequence[Variant]) -> str:
    """Return the unit of least energy among those whose integers hold `ACCEPTABLE_PERCENT`."""
    candidates = points(variants)
    exact = next((point for point in candidates if point.variant.method.is_baseline), None)
    others = [point for point in candidates if not point.variant.method.is_baseline]
    if not others:
        return ""
    holding = [point for point in others if point.loss <= ACCEPTABLE_PERCENT]
    if not holding:
        best = min(others, key=lambda point: point.loss)
        return (
            f"For a chip: no unit loses less than {ACCEPTABLE_PERCENT:g}% here; the nearest is {_unit(best)} "
            f"({_change(best.loss)}, {_energy(best.energy)} a score)."
        )
    best = min(holding, key=lambda point: point.energy)
    beside = ""
    if exact is not None:
        beside = f", beside {_costs(exact)} of {_unit(exact)}"
    change = f"{_change(best.loss)}{_seeds(best.variant, 'integer')}"
    waiting = ", with the memory in which rows wait" if has_memory(variants) else ""
    return (
        f"For a chip: {_unit(best)} has the unit of least energy that loses less than {ACCEPTABLE_PERCENT:g}% "
        f"in exact integers ({change}): {_costs(best)}{beside}{waiting}."
    )


def _for_a_model(variants: Sequence[Variant]) -> str:
    """Return what loses least in floating point of what needs no training of its own, and of what is trained."""
    approximations = (variant for variant in variants if not variant.method.is_baseline)
    measured = (variant for variant in approximations if variant.figure(LOSS, "float") is not None)
    ranked = sorted(measured, key=lambda variant: variant.figure(LOSS, "float") or 0.0)
    as_it_is = [variant for variant in ranked if not _is_trained(variant)]
    trained = [variant for variant in ranked if variant not in as_it_is]
    parts = []
    for group, how in ((as_it_is, "as it is"), (trained, "with training")):
        if not group:
            continue
        best, *rest = group
        ties = [other for other in rest if tied(best, other, "float")]
        also = f", tied with {len(ties)} other{'s' if len(ties) > 1 else ''}" if ties else ""
        change = f"{_change(best.figure(LOSS, 'float'))}{_seeds(best, 'float')}"
        parts.append(f"{how}, {_name(best)} changes the loss least ({change}{also})")
    return f"For a model: {'; '.join(parts)}." if parts else ""


def lost_to_formats(variants: Sequence[Variant]) -> list[str]:
    """Return a sentence for each method whose formats lose much beyond what it loses itself: the worst variant's."""
    worst: dict[str, tuple[float, str]] = {}
    for variant in variants:
        real, integers = variant.figure(LOSS, "float"), variant.figure(LOSS, "integer")
        if real is None or integers is None or integers - real <= FORMATS_PERCENT:
            continue
        sentence = (
            f"The formats of {_name(variant)} do not hold here: {_change(real)} in floating point, "
            f"{_change(integers)} in integers; softmaxkit recommend finds some that do."
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
    return f"{_area(point.area)} and {_energy(point.energy)} a score"


def _seeds(variant: Variant, mode: str) -> str:
    """Return how many seeds a figure is of, where something was trained."""
    result = variant.results[mode]
    if not result.get("trained_steps"):
        return ""
    count = len(seeds_of(result))
    return f", {count} seeds" if count > 1 else ", one seed"


def _is_trained(variant: Variant) -> bool:
    """Was the model trained with the method in it?"""
    result = next(iter(variant.results.values()))
    return bool(result.get("trained_steps")) and not str(result.get("training_description", "")).endswith("calibrated")
