"""Heads of a model for the hardware: the constants that a unit gets, and real scores to run it with."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from softmaxkit.flow.vectors import Rows
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.spec import Spec

if TYPE_CHECKING:
    from softmaxkit.models.evaluation import RealScores

WINDOWS = 8
"""Held-out windows that a model runs for a head's scores."""


@dataclass(frozen=True)
class TrainedHead:
    """One head of a model.

    Attributes:
        spec: the method in its layer.
        constants: of the head.
        rows: codes of the scores that it gave on a text.
    """

    spec: Spec
    constants: Constants
    rows: Rows

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


def read_head(model: str, layer: int, head: int, text: Path | None, context: int) -> TrainedHead:
    """Return one head of a model that has a method in it, with scores of its own.

    Args:
        model: folder or hub name.
        layer: from 0.
        head: of the layer, from 0.
        text: to run it on; None for the default.
        context: tokens in a window.

    Raises:
        ValueError: the model has no method in it, or no such layer or head.
    """
    from softmaxkit.models.evaluation import real_scores
    from softmaxkit.models.patch import layers, set_mode
    from softmaxkit.models.pretrained import read_pretrained
    from softmaxkit.models.text import read_corpus

    loaded, tokenizer = read_pretrained(model, context, causal=False)
    count = len(layers(loaded))
    if not count:
        raise ValueError(f"{model} has no method in it; put one in with 'softmaxkit calibrate {model} METHOD'")
    if not 0 <= layer < count:
        raise ValueError(f"--layer is 0 to {count - 1} for this model, not {layer}")
    set_mode(loaded, "integer")
    scores = real_scores(loaded, read_corpus(text, tokenizer).held_out_windows(context, WINDOWS))[layer]
    heads = scores.scores.shape[1]
    if not 0 <= head < heads:
        raise ValueError(f"--head is 0 to {heads - 1} for this model, not {head}")
    return head_of_layer(scores, head)


def head_of_layer(layer: RealScores, head: int) -> TrainedHead:
    """Return one head of a layer, with the scores that the layer gave."""
    spec, constants = layer.module.spec, layer.module.constants.of_head(head)
    codes = spec.encode(layer.scores[:, head].flatten(0, -2), constants).cpu().numpy()
    mask = layer.attended[:, head].flatten(0, -2).cpu().numpy()
    # A row ends with the last key that is attended.
    lengths = np.where(mask.any(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1), 1)
    return TrainedHead(spec, constants, Rows(codes, mask, lengths))
