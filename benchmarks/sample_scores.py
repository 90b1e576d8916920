"""Create the sample of attention scores from which the switching activity of units is measured.

    softmaxkit train exact --context 256 --steps 1000 -o model
    python benchmarks/sample_scores.py model

writes the scores of the last query of held-out windows of 256 tokens, in every head of the small GPT, to
src/softmaxkit/flow/scores.npy. Every energy figure depends on the sample, so replace it only deliberately.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from softmaxkit.flow import scores
from softmaxkit.models.evaluation import real_scores
from softmaxkit.models.pretrained import read_pretrained
from softmaxkit.models.text import read_corpus
from softmaxkit.script import one_line_errors

WINDOWS = 4


def main() -> None:
    """Write the sample of a model's scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a model with exact softmax")
    arguments = parser.parse_args()
    with one_line_errors(parser):
        model, tokenizer = read_pretrained(arguments.model, scores.KEYS)
        windows = read_corpus(None, tokenizer).held_out_windows(scores.KEYS, WINDOWS)
        heads = real_scores(model, windows)
    rows = np.concatenate([layer.scores[:, :, -1].flatten(0, 1).cpu().numpy() for layer in heads])
    path = Path(scores.__file__).parent / scores.FILE
    np.save(path, np.random.default_rng(0).permutation(rows).astype(np.float16))
    print(f"{path.name}: {rows.shape[0]} rows, spread {rows.std(axis=1).mean():.2f}")


if __name__ == "__main__":
    main()
