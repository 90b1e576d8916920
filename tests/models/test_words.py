"""Words among tokens: which tokens they are, and which were said right."""

from __future__ import annotations

import torch

from softmaxkit.models.words import Words

PIECES = ["Ġthe", "Ġhou", "se", ".", "Ġ1", "Ċ", "Ġred"]


class Vocabulary:
    """As much of a tokenizer as is asked."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return len(self.pieces)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.pieces[token] for token in ids]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens).replace("Ġ", " ").replace("Ċ", "\n")


def words() -> Words:
    found = Words.of(Vocabulary(PIECES))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_tokens_of_words() -> None:
    assert [PIECES[i] for i in words().starts.nonzero().flatten()] == ["Ġthe", "Ġhou", "Ġred"]
    assert [PIECES[i] for i in words().goes_on.nonzero().flatten()] == ["se"]
    assert Words.of(Vocabulary(["a", "b", "##c"])) is None  # type: ignore[arg-type]


def test_a_word_is_right_with_all_its_tokens() -> None:
    labels = torch.tensor([[0, 1, 2, 3, 4, 6], [2, 0, 1, 2, 2, 5]])  # "the hou-se . 1 red", "-se the hou-se-se \n"
    right = torch.ones_like(labels, dtype=torch.bool)
    assert words().tally(labels, right) == (5, 5)
    right[0, 2] = False  # the house
    right[1, 0] = False  # the end of a word that began before the window, which does not count
    right[0, 3] = right[0, 4] = right[1, 5] = False  # neither do a full stop, a number and the end of a line
    assert words().tally(labels, right) == (4, 5)
    right[1, 4] = False
    assert words().tally(labels, right) == (3, 5)
    assert words().tally(labels[:, :1], right[:, :1]) == (1, 1)
