"""The inputs of a comparison: its options, and its text divided into windows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from torch import Tensor

from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.pretrained import shared_pretrained
from softmaxkit.models.text import Corpus, read_corpus
from softmaxkit.recipe import WINDOWS, Recipe, Shape

SAMPLE_TOKENS = 2048
"""Number of tokens, rounded down to whole windows, whose scores are sampled for row sums, saturation and error."""


def sampled_windows(context: int) -> int:
    """Return the number of windows of `context` tokens whose scores are sampled, if the text has that many."""
    return max(1, SAMPLE_TOKENS // context)


@dataclass(frozen=True)
class Options:
    """What to compare.

    Attributes:
        specs: the methods; the baseline is always measured, first.
        text: a text file; None for the Python standard library's source.
        model: a pretrained causal language model, by folder or hub name; None trains one from scratch.
        shape: dimensions of the model that is trained from scratch.
        recipe: hyperparameters of all trainings. With zero steps, a pretrained model stays as it is.
        seed: seed of all random numbers.
        windows: maximum number of held-out windows on which the loss is measured.
        folder: folder for checkpoints and finished results, from which a stopped comparison resumes.
        verify: compare the hardware of every spec with its integers, on the model's own scores and constants.
        synthesize: map that hardware to standard cells, for area, clock and energy.
        speed: measure the speed of every spec's kernel against torch's.
    """

    specs: Sequence[Spec]
    text: Path | None = None
    model: str | None = None
    shape: Shape = field(default_factory=Shape)
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    windows: int = WINDOWS
    folder: Path = Path("softmaxkit-compare")
    verify: bool = True
    synthesize: bool = True
    speed: bool = True

    @property
    def pretrained(self) -> bool:
        """Whether the model is pretrained."""
        return self.model is not None


@dataclass(frozen=True)
class TokenWindows:
    """The text of a comparison, divided into windows.

    Attributes:
        corpus: the text as tokens.
        fingerprint: a hash of its tokens.
        held_out: windows on which the loss is measured, (windows, context + 1).
        sample: a few held-out windows whose scores are analysed, (windows, context + 1).
        calibration: batches of the training part, each (batch, context).
    """

    corpus: Corpus
    fingerprint: str
    held_out: Tensor
    sample: Tensor
    calibration: list[Tensor]

    @classmethod
    def read(cls, options: Options) -> Self:
        """Read the text of a comparison with the tokenizer of its model.

        Raises:
            ValueError: the text or model cannot be used.
        """
        context = options.recipe.context
        if options.model is None:
            corpus = read_corpus(options.text, None, options.shape.tokens)
        else:
            corpus = read_corpus(options.text, shared_pretrained(options.model, context)[1])
        return cls(
            corpus,
            corpus.fingerprint,
            corpus.held_out_windows(context, options.windows),
            corpus.held_out_windows(context, min(options.windows, sampled_windows(context))),
            corpus.calibration_batches(context),
        )
