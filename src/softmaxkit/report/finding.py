"""The main finding as one sentence, which claims no more than the spread over seeds supports."""

from collections.abc import Sequence

from softmaxkit.report.columns import number, seeds_of, spread_of
from softmaxkit.report.record import Variant

_MODE_NAMES = {"integer": "exact integers", "float": "floating point"}
_LOSS, _CHANGE = "loss_nats", "loss_change_percent"
_loss = number(",.4f")
_percent = number(",.2f")


def leaders(variants: Sequence[Variant]) -> list[Variant]:
    """Return the approximation with the lowest loss, and those that tie with it."""
    mode, ranked = _compared(variants)
    return ranked[:1] + _ties(ranked, mode)


def finding(variants: Sequence[Variant]) -> str:
    """Return a sentence on the approximation with the lowest loss, its distance from exact softmax, and the doubt."""
    mode, ranked = _compared(variants)
    if not ranked:
        return "The record has no approximation with a loss to compare."
    best, *others = ranked
    place, ties = _MODE_NAMES[mode], _ties(ranked, mode)
    doubt = _doubt(ranked, mode)
    loss = f"{_with_spread(best, _LOSS, mode)} nats"
    if not others:
        sentence = f"In {place}, {_name(best)} has a loss of {loss}"
    elif ties:
        sentence = f"Of {len(ranked)} approximations in {place}, {_name(best)} ties with {_listed(ties)}: {loss}"
    else:
        seen = " measured" if doubt else ""
        sentence = f"Of {len(ranked)} approximations in {place}, {_name(best)} has the lowest loss{seen}: {loss}"
    if best.figure(_CHANGE, mode) is None:
        return f"{sentence}{doubt}."
    sentence += f", {_difference(best, mode)} exact softmax in floating point"
    apart = [other for other in others if other not in ties and other.figure(_CHANGE, mode) is not None]
    if apart and apart[0] is not apart[-1]:
        sentence += f"; next is {_name(apart[0])}, {_difference(apart[0], mode)} it"
    sentence += doubt
    if apart:
        sentence += f"; the highest, {_name(apart[-1])}, is {_difference(apart[-1], mode)} it"
    return sentence + "."


def tied(one: Variant, other: Variant, mode: str) -> bool | None:
    """Return whether the intervals mean ± spread of two variants overlap; None if either spread is unknown.

    The change from exact softmax is preferred over the loss: exact softmax was trained with the same seeds, so much of
    the variation between seeds cancels out.
    """
    for key in (_CHANGE, _LOSS):
        intervals = [_interval(variant, key, mode) for variant in (one, other)]
        if intervals[0] and intervals[1]:
            (low, high), (other_low, other_high) = intervals[0], intervals[1]
            return low <= other_high and other_low <= high
    return None


def _interval(variant: Variant, key: str, mode: str) -> tuple[float, float] | None:
    mean, spread = variant.figure(key, mode), spread_of(variant.results[mode], key)
    return None if mean is None or spread is None else (mean - spread, mean + spread)


def _ties(ranked: Sequence[Variant], mode: str) -> list[Variant]:
    return [other for other in ranked[1:] if tied(ranked[0], other, mode)]


def _doubt(ranked: Sequence[Variant], mode: str) -> str:
    """Return why the ranking may be chance, if the spread over seeds of the best or second-best is unknown."""
    if len(ranked) > 1:
        known = tied(ranked[0], ranked[1], mode) is not None
    else:
        known = any(_interval(ranked[0], key, mode) for key in (_CHANGE, _LOSS))
    if known:
        return ""
    many = all(len(seeds_of(variant.results[mode])) > 1 for variant in ranked[:2])
    return f" ({'spread over seeds unknown' if many else 'one seed'}, so differences of this size may be chance)"


def _compared(variants: Sequence[Variant]) -> tuple[str, list[Variant]]:
    """Return the mode to compare, integers if any approximation was run in them, and its ranking by loss."""
    ranked: list[Variant] = []
    for mode in _MODE_NAMES:
        losses = [(variant.figure(_LOSS, mode), variant) for variant in variants if not variant.method.is_baseline]
        measured = [(loss, variant) for loss, variant in losses if loss is not None]
        ranked = [variant for _, variant in sorted(measured, key=lambda pair: pair[0])]
        if ranked:
            break
    return mode, ranked


def _name(variant: Variant) -> str:
    title = variant.method.title
    return f"{title} ({variant.name})" if variant.name else title


def _listed(variants: Sequence[Variant]) -> str:
    if len(variants) > 2:
        return f"{_name(variants[0])} and {len(variants) - 1} others"
    return " and ".join(map(_name, variants))


def _with_spread(variant: Variant, key: str, mode: str) -> str:
    spread = spread_of(variant.results[mode], key)
    return _loss(variant.figure(key, mode)) + ("" if spread is None else f" ± {_loss(spread)}")


def _difference(variant: Variant, mode: str) -> str:
    percent, spread = variant.figure(_CHANGE, mode) or 0.0, spread_of(variant.results[mode], _CHANGE)
    if percent == 0 and not spread:
        return "level with"
    about = "" if spread is None else f" ± {_percent(spread)}"
    return f"{_percent(abs(percent))}{about}% {'below' if percent < 0 else 'above'}"
