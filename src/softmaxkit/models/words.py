"""Count the whole words that a language model predicts correctly."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

SPACE = ("Ġ", "▁")
"""Characters that represent a space in a vocabulary: of byte-level byte-pair encoding, and of SentencePiece."""


class Words(NamedTuple):
    """How each token of a vocabulary relates to words, as boolean tensors (tokens,).

    Attributes:
        starts: the token starts a word: a space followed by letters.
        continues: the token continues a word: letters alone.
    """

    starts: Tensor
    continues: Tensor

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Self | None:
        """Return the words of a tokenizer's vocabulary; None if its tokens do not mark where words start."""
        size = max(tokenizer.get_vocab().values(), default=-1) + 1  # more than the tokens if some ids are unused
        pieces = [piece or "" for piece in tokenizer.convert_ids_to_tokens(list(range(size)))]
        spaces = [piece.startswith(SPACE) for piece in pieces]
        letters = [tokenizer.convert_tokens_to_string([piece]).removeprefix(" ").isalpha() for piece in pieces]
        if not any(spaces):
            return None
        space, of_letters = torch.tensor(spaces), torch.tensor(letters)
        return cls(space & of_letters, ~space & of_letters)

    def tally(self, labels: Tensor, right: Tensor) -> tuple[int, int]:
        """Return how many words were predicted correctly, and how many there are.

        A word is correct if each of its tokens is the model's first choice given all preceding tokens, as in LAMBADA
        (arXiv 1606.06031).

        Args:
            labels: tokens, (windows, tokens).
            right: whether each token was the model's first choice; boolean, same shape.
        """
        labels, right = labels.cpu(), right.cpu()
        # Every token that does not continue a word begins a group; the tokens that continue it belong to the group.
        begins = ~self.continues[labels]
        begins[:, 0] = True
        group = begins.flatten().cumsum(0) - 1
        wrong = torch.zeros(int(group[-1]) + 1, dtype=torch.long).index_add_(0, group, (~right).flatten().long())
        words = self.starts[labels[begins]]
        return int((wrong[words] == 0).sum()), int(words.sum())
