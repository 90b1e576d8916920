"""What the verbs for hardware share: units of one kind, and heads of a model with their constants and real scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from softmaxkit.flow.vectors import Rows
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.forms import Kind, has_constants
from softmaxkit.methods.base.spec import Spec

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.models.evaluation import RealScores

T = TypeVar("T")

WINDOWS = 8
"""Held-out windows that a model runs for a head's scores."""


@dataclass(frozen=True)
class TrainedHead:
    """One head of a model.

    Attributes:
        layer, number: where it is, each from 0.
        spec: the method in its layer.
        constants: of the head.
        rows: codes of the scores that it gave on a text.
    """

    layer: int
    number: int
    spec: Spec
    constants: Constants
    rows: Rows

    @property
    def name(self) -> str:
        """What folders and files call it, e.g. "layer2-head1"."""
        return f"layer{self.layer}-head{self.number}"

    def longest_rows(self, limit: int) -> Rows:
        """Return the longest of the rows, all of one length; rows of more than `limit` scores are cut off there."""
        rows = self.rows.first(len(self.rows.lengths), limit)
        return rows.taken(np.nonzero(rows.lengths == rows.lengths.max())[0])


def require_amaranth() -> None:
    """Check, before any work, that hardware can be built.

    Raises:
        ModuleNotFoundError: Amaranth is not installed; the message says how to get it.
    """
    import_module("softmaxkit.blocks")


def of_kind(units: Iterable[T], unit_of: Callable[[T], SoftmaxUnit], kind: Kind | None) -> list[T]:
    """Return the units whose constants are baked in, or those whose constants are loaded; all where `kind` is None.

    Args:
        units: some units, or what they come with.
        unit_of: returns the unit.
        kind: which to keep.

    Raises:
        ValueError: there are none of this kind; the message says what there is.
    """
    some = list(units)
    if kind is None:
        return some
    with_constants = [each for each in some if has_constants(unit_of(each).spec)]
    kept = [each for each in with_constants if (unit_of(each).registers is not None) == (kind == "loadable")]
    if not kept:
        names = ", ".join(dict.fromkeys(unit_of(each).spec.name for each in some))
        lacks = f"unit with {kind} constants" if with_constants else "constants to bake in or to load"
        raise ValueError(f"{names} has no {lacks}; leave --constants out")
    return kept


def read_heads(
    model: str, layer: int | None, head: int | None, text: Path | None, context: int, rows: int | None = None
) -> list[TrainedHead]:
    """Return heads of a model that has a method in it, with scores of their own.

    The model runs once, whatever the number of heads, and the scores of one layer at a time are in memory.

    Args:
        model: folder or hub name.
        layer: from 0; None for all.
        head: of the layer, from 0; None for all.
        text: to run it on; None for the default.
        context: tokens in a window.
        rows: of each head to keep, evenly spread, at most; None for all.

    Raises:
        ValueError: the model has no method in it, or no such layer or head.
    """
    from softmaxkit.models.evaluation import see_scores
    from softmaxkit.models.patch import layers, set_mode
    from softmaxkit.models.pretrained import read_pretrained
    from softmaxkit.models.text import read_corpus, windows_at_once

    loaded, tokenizer = read_pretrained(model, context, causal=False)
    count = len(layers(loaded))
    if not count:
        raise ValueError(f"{model} has no method in it; put one in with 'softmaxkit calibrate {model} METHOD'")
    if layer is not None and not 0 <= layer < count:
        raise ValueError(f"--layer is 0 to {count - 1} for this model, not {layer}")
    set_mode(loaded, "integer")
    found: list[TrainedHead] = []
    places = itertools.count()

    def see(scores: RealScores) -> None:
        place, heads = next(places), scores.scores.shape[1]
        if layer not in (None, place):
            return
        if head is not None and not 0 <= head < heads:
            raise ValueError(f"--head is 0 to {heads - 1} for this model, not {head}")
        found.extend(head_of_layer(scores, place, each, rows) for each in range(heads) if head in (None, each))

    see_scores(loaded, read_corpus(text, tokenizer).held_out_windows(context, windows_at_once(WINDOWS, context)), see)
    return found


def head_of_layer(scores: RealScores, layer: int, head: int, rows: int | None = None) -> TrainedHead:
    """Return one head of a layer, with the scores that the layer gave; `rows` of them, evenly spread, where given."""
    spec, constants = scores.module.spec, scores.module.constants.of_head(head)
    codes = spec.encode(scores.scores[:, head].flatten(0, -2), constants).cpu().numpy()
    mask = scores.attended[:, head].flatten(0, -2).cpu().numpy()
    # A row ends with the last key that is attended.
    lengths = np.where(mask.any(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1), 1)
    every = Rows(codes, mask, lengths)
    return TrainedHead(layer, head, spec, constants, every if rows is None else every.first(rows, mask.shape[1]))
