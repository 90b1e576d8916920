"""Attention scores of a real model, for the activity of units: a sample that comes with the package.

    softmaxkit train exact --context 256 --steps 1000 -o model
    python -m softmaxkit.flow.scores model

makes it again: of every head of the small GPT, the last query of held-out windows of 256 tokens.
"""

from __future__ import annotations

import io
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from softmaxkit.flow.vectors import Rows
from softmaxkit.formats import Array
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.spec import Spec

FILE = "scores.npy"
KEYS = 256


@cache
def sample() -> Array:
    """Return real scores; float64, (rows, 256)."""
    found: Array = np.load(io.BytesIO((files("softmaxkit.flow") / FILE).read_bytes())).astype(np.float64)
    return found


def sampled_rows(spec: Spec, constants: Constants, count: int, length: int) -> Rows:
    """Return rows of the sample as a spec encodes them, the same from the beginning where there are too few.

    Args:
        spec: the method.
        constants: of one head.
        count: of rows.
        length: scores in each, up to 256 of the sample's; longer rows repeat them.
    """
    values = np.resize(sample(), (count, KEYS))
    values = np.tile(values, -(-length // KEYS))[:, :length]
    codes = np.asarray(spec.encode(values, constants)).astype(np.int64)
    return Rows(codes, np.ones(codes.shape, np.bool_), np.full(count, length))


def main(model: str) -> None:
    """Write the sample from a model."""
    from softmaxkit.models.evaluation import real_scores
    from softmaxkit.models.pretrained import read_pretrained
    from softmaxkit.models.text import read_corpus

    loaded, tokenizer = read_pretrained(model, KEYS)
    seen = real_scores(loaded, read_corpus(None, tokenizer).held_out_windows(KEYS, 4))
    rows = np.concatenate([each.scores[:, :, -1].flatten(0, 1).cpu().numpy() for each in seen])
    path = Path(__file__).parent / FILE
    np.save(path, np.random.default_rng(0).permutation(rows).astype(np.float16))
    print(f"{path.name}: {rows.shape[0]} rows, spread {rows.std(axis=1).mean():.2f}")


if __name__ == "__main__":
    main(sys.argv[1])
