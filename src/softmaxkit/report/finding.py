"""The one sentence that a reader should take away."""

from collections.abc import Sequence

from softmaxkit.report.columns import number
from softmaxkit.report.record import Variant

_MODE_NAMES = {"integer": "exact integers", "float": "floating point"}
_loss = number(",.4f")
_percent = number(",.2f", "%")


def best(variants: Sequence[Variant]) -> tuple[Variant, str] | None:
    """Return the approximation with the lowest loss and its mode: in integers, or in floating point if none was."""
    for mode in _MODE_NAMES:
        candidates = _approximations(variants, mode)
        if candidates:
            return candidates[0], mode
    return None


def finding(variants: Sequence[Variant]) -> str:
    """Say which approximation has the lowest loss, and how far from exact softmax it is."""
    chosen = best(variants)
    if chosen is None:
        return "The record has no approximation with a loss to compare."
    variant, mode = chosen
    ranked = _approximations(variants, mode)
    place = _MODE_NAMES[mode]
    if len(ranked) == 1:
        start = f"In {place}, {_name(variant)} has a loss of"
    else:
        start = f"Of {len(ranked)} approximations in {place}, {_name(variant)} has the lowest loss:"
    sentence = f"{start} {_loss(variant.figure('loss_nats', mode))} nats"
    lowest, highest = (end.figure("loss_change_percent", mode) for end in (variant, ranked[-1]))
    if lowest is not None:
        sentence += f", {_difference(lowest)} exact softmax in floating point"
        if len(ranked) > 1 and highest is not None:
            sentence += f"; the highest, {_name(ranked[-1])}, is {_difference(highest)} it"
    return sentence + "."


def _approximations(variants: Sequence[Variant], mode: str) -> list[Variant]:
    """Return the approximations with a loss in this mode, lowest loss first."""
    losses = [(variant.figure("loss_nats", mode), variant) for variant in variants if not variant.method.is_baseline]
    measured = [(loss, variant) for loss, variant in losses if loss is not None]
    return [variant for _, variant in sorted(measured, key=lambda pair: pair[0])]


def _name(variant: Variant) -> str:
    title = variant.method.title
    return f"{title} ({variant.name})" if variant.name else title


def _difference(percent: float) -> str:
    if percent == 0:
        return "level with"
    return f"{_percent(abs(percent))} {'above' if percent > 0 else 'below'}"
