"""Helpers of the hardware commands: units of one kind, and a model's heads with their constants and real scores."""

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
"""Number of held-out windows from which the scores of heads are taken."""


@dataclass(frozen=True)
class TrainedHead:
    """One attention head of a model.

    Attributes:
        layer: index of its layer, from 0.
        number: index of the head in the layer, from 0.
        spec: the method in its layer.
        constants: the head's constants.
        rows: codes of the head's scores on a text.
    """

    layer: int
    number: int
    spec: Spec
    constants: Constants
    rows: Rows

    @property
    def name(self) -> str:
        """The head's name in folders and files, e.g. "layer2-head1"."""
        return f"layer{self.layer}-head{self.number}"

    def longest_rows(self, limit: int) -> Rows:
        """Return the longest rows, all of equal length, after truncating every row to `limit` scores."""
        rows = self.rows.first(len(self.rows.lengths), limit)
        return rows.taken(np.nonzero(rows.lengths == rows.lengths.max())[0])


def require_amaranth() -> None:
    """Check, before any work starts, that hardware can be built.

    Raises:
        ModuleNotFoundError: Amaranth is not installed; the message says how to install it.
    """
    import_module("softmaxkit.blocks")


def of_kind(units: Iterable[T], unit_of: Callable[[T], SoftmaxUnit], kind: Kind | None) -> list[T]:
    """Return the units with baked-in or with loadable constants; all of them if `kind` is None.

    Args:
        units: units, or objects from which `unit_of` gets one.
        unit_of: returns the unit of such an object.
        kind: "baked" or "loadable".

    Raises:
        ValueError: there is no unit of this kind; the message says what is missing.
    """
    some = list(units)
    if kind is None:
        return some
    with_constants = [candidate for candidate in some if has_constants(unit_of(candidate).spec)]
    selected = [
        candidate for candidate in with_constants if (unit_of(candidate).registers is not None) == (kind == "loadable")
    ]
    if not selected:
        names = ", ".join(dict.fromkeys(unit_of(candidate).spec.name for candidate in some))
        lacks = f"unit with {kind} constants" if with_constants else "constants to bake in or to load"
        raise ValueError(f"{names} has no {lacks}; leave --constants out")
    return selected


def read_heads(
    model: str, layer: int | None, head: int | None, text: Path | None, context: int, rows: int | None = None
) -> list[TrainedHead]:
    """Return heads of a model that has a method in it, each with its own scores.

    The model runs only once, and only the scores of one layer at a time are in memory.

    Args:
        model: folder or hub name.
        layer: index of the layer, from 0; None for all.
        head: index of the head in its layer, from 0; None for all.
        text: a text file, on which the model runs; None for the Python standard library's source.
        context: tokens per window.
        rows: maximum number of rows of each head, evenly spread; None for all.

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
        raise ValueError(f"{model} has no method in it; apply one with 'softmaxkit calibrate {model} METHOD'")
    if layer is not None and not 0 <= layer < count:
        raise ValueError(f"--layer must be from 0 to {count - 1} for this model, got {layer}")
    set_mode(loaded, "integer")
    trained_heads: list[TrainedHead] = []
    places = itertools.count()

    def see(scores: RealScores) -> None:
        place, heads = next(places), scores.scores.shape[1]
        if layer not in (None, place):
            return
        if head is not None and not 0 <= head < heads:
            raise ValueError(f"--head must be from 0 to {heads - 1} for this model, got {head}")
        trained_heads.extend(
            head_of_layer(scores, place, number, rows) for number in range(heads) if head in (None, number)
        )

    see_scores(loaded, read_corpus(text, tokenizer).held_out_windows(context, windows_at_once(WINDOWS, context)), see)
    return trained_heads


def head_of_layer(scores: RealScores, layer: int, head: int, rows: int | None = None) -> TrainedHead:
    """Return one head of a layer with its scores: all rows, or at most `rows` evenly spread ones."""
    spec, constants = scores.module.spec, scores.module.constants.of_head(head)
    codes = spec.encode(scores.scores[:, head].flatten(0, -2), constants).cpu().numpy()
    mask = scores.attended[:, head].flatten(0, -2).cpu().numpy()
    # The length of a row is the position of its last attended key, plus 1.
    lengths = np.where(mask.any(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1), 1)
    every = Rows(codes, mask, lengths)
    return TrainedHead(layer, head, spec, constants, every if rows is None else every.first(rows, mask.shape[1]))
