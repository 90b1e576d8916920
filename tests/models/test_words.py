"""Words in a vocabulary of tokens, and how many of them were predicted correctly."""

from __future__ import annotations

import torch

from softmaxkit.models.words import Words

PIECES = ["Ġthe", "Ġhou", "se", ".", "Ġ1", "Ċ", "Ġred"]


class Vocabulary:
    """The part of a tokenizer that `Words` uses; unused ids are None, as in transformers."""

    def __init__(self, pieces: list[str | None]) -> None:
        self.pieces = pieces

    def get_vocab(self) -> dict[str, int]:
        return {piece: index for index, piece in enumerate(self.pieces) if piece is not None}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | None]:
        return [self.pieces[token] for token in ids]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens).replace("Ġ", " ").replace("Ċ", "\n")


def words() -> Words:
    word_tokens = Words.of(Vocabulary(PIECES))  # type: ignore[arg-type]
    assert word_tokens is not None
    return word_tokens


def test_tokens_of_words() -> None:
    assert [PIECES[i] for i in words().starts.nonzero().flatten()] == ["Ġthe", "Ġhou", "Ġred"]
    assert [PIECES[i] for i in words().continues.nonzero().flatten()] == ["se"]
    assert Words.of(Vocabulary(["a", "b", "##c"])) is None  # type: ignore[arg-type]


def test_unused_ids_are_not_words() -> None:
    word_tokens = Words.of(Vocabulary(["Ġthe", None, "se"]))  # type: ignore[arg-type]
    assert word_tokens is not None
    assert (word_tokens.starts.tolist(), word_tokens.continues.tolist()) == ([True, False, False], [False, False, True])


def test_a_word_is_correct_if_all_its_tokens_are() -> None:
    labels = torch.tensor([[0, 1, 2, 3, 4, 6], [2, 0, 1, 2, 2, 5]])  # "the hou-se . 1 red", "-se the hou-se-se \n"
    right = torch.ones_like(labels, dtype=torch.bool)
    assert words().tally(labels, right) == (5, 5)
    right[0, 2] = False  # the house
    right[1, 0] = False  # the end of a word that began before the window is not counted
    right[0, 3] = right[0, 4] = right[1, 5] = False  # nor are a full stop, a number and a line break
    assert words().tally(labels, right) == (4, 5)
    right[1, 4] = False
    assert words().tally(labels, right) == (3, 5)
    assert words().tally(labels[:, :1], right[:, :1]) == (1, 1)
