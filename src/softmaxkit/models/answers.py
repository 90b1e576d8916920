"""Questions answered with a span of a text, as in SQuAD: windows of tokens, the best span, exact match and F1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from softmaxkit.models.running import check_finite, run
from softmaxkit.models.tasks import Answers, Example

LONGEST = 30
"""Tokens of an answer, at most."""

OVERLAP = 3
"""Windows of a long text overlap by one part in so many."""


class Window(NamedTuple):
    """A question with as much of its text as a model takes.

    Attributes:
        example: index of the example.
        tokens: what the model takes, and where its answer begins and ends: both 0, the first token, without one.
        spans: (tokens, 2), where each token of the text stands in it; -1 for others.
    """

    example: int
    tokens: dict[str, Any]
    spans: NDArray[np.int64]


class Windows(Dataset[dict[str, Any]]):
    """Examples as windows of tokens, to train on or to measure.

    Args:
        examples: questions, their texts and their answers.
        tokenizer: of the model, a fast one.
        length: tokens of a window.

    Raises:
        ValueError: the tokenizer does not say where its tokens stand, or windows are too short.
    """

    def __init__(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, length: int) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} does not say where tokens stand in a text; take a fast tokenizer"
            )
        self.windows = [
            window for index, example in enumerate(examples) for window in _windows(index, example, tokenizer, length)
        ]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.windows[index].tokens


def _windows(index: int, example: Example, tokenizer: PreTrainedTokenizerBase, length: int) -> list[Window]:
    assert isinstance(example.label, Answers)
    asked = tokenizer(example.first, add_special_tokens=False, return_offsets_mapping=True)
    longest = length // 2
    question = example.first[: asked["offset_mapping"][longest][0] if len(asked["input_ids"]) > longest else None]
    count = len(tokenizer(question, add_special_tokens=False)["input_ids"])
    room = length - count - tokenizer.num_special_tokens_to_add(pair=True)
    if room < OVERLAP:
        raise ValueError(f"windows of {length} tokens leave no room for a text beside its question; take 384 or so")
    encoded = tokenizer(
        question,
        example.second,
        truncation="only_second",
        max_length=length,
        stride=room // OVERLAP,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = []
    for place, offsets in enumerate(encoded["offset_mapping"]):
        in_text = np.asarray([part == 1 for part in encoded.sequence_ids(place)])
        spans = np.where(in_text[:, None], np.asarray(offsets), -1)
        first, last = _answer_tokens(example.label, spans)
        tokens = {name: encoded[name][place] for name in tokenizer.model_input_names if name in encoded}
        windows.append(Window(index, {**tokens, "start_positions": first, "end_positions": last}, spans))
    return windows


def _answer_tokens(answers: Answers, spans: NDArray[np.int64]) -> tuple[int, int]:
    """Return the first and last token of the first answer; 0 and 0 if it is not wholly among them."""
    if not answers.texts:
        return 0, 0
    text = answers.texts[0]
    begin = answers.starts[0] + len(text) - len(text.lstrip())
    end = begin + len(text.strip())
    inside = np.flatnonzero((spans[:, 1] > begin) & (spans[:, 0] < end) & (spans[:, 0] >= 0))
    if not len(inside) or spans[inside[0], 0] > begin or spans[inside[-1], 1] < end:
        return 0, 0
    return int(inside[0]), int(inside[-1])


def measure_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    length: int,
    size: int,
    tick: Callable[[int], None],
) -> dict[str, float]:
    """Return `exact_match_percent` and `answer_f1_percent`, the mean over questions of the best over their answers.

    Args:
        model: with a head for answers.
        tokenizer: its own.
        examples: to measure on. Where some have no answer, a model may give none, by its first token.
        length: tokens of a window.
        size: windows at a time.
        tick: called with the number of examples that are done.

    Raises:
        FloatingPointError: the model gives NaN or infinity.

    Source: the measures of Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1; windows and spans as in Devlin et al.
    2018, arXiv 1810.04805, section 4.2 and 4.3.
    """
    windows = Windows(examples, tokenizer, length).windows
    may_be_none = any(not example.label.texts for example in examples if isinstance(example.label, Answers))
    best: list[tuple[float, str]] = [(-np.inf, "")] * len(examples)
    none = np.full(len(examples), np.inf)
    done = 0
    for first in range(0, len(windows), size):
        some = windows[first : first + size]
        names = [name for name in some[0].tokens if not name.endswith("_positions")]
        fields = [{name: window.tokens[name] for name in names} for window in some]
        batch = tokenizer.pad(fields, padding_side="right", return_tensors="pt")
        outputs = run(model, dict(batch))
        logits = torch.stack([outputs.start_logits, outputs.end_logits], dim=-1).float().cpu().numpy()
        check_finite(logits)
        for window, scores in zip(some, logits, strict=True):
            text = str(examples[window.example].second)
            best[window.example] = max(
                best[window.example], _best_span(scores[: len(window.spans)], window.spans, text)
            )
            none[window.example] = min(none[window.example], scores[0].sum())
        tick(some[-1].example + 1 - done)
        done = some[-1].example + 1
    pairs = []
    for example, (score, text), least in zip(examples, best, none, strict=True):
        assert isinstance(example.label, Answers)
        guessed = "" if may_be_none and least > score else text
        answers = example.label.texts or ("",)
        pairs.append([(exact_match(guessed, answer), answer_f1(guessed, answer)) for answer in answers])
    exact, overlap = (np.mean([max(score[which] for score in scores) for scores in pairs]) for which in (0, 1))
    return {"exact_match_percent": 100 * float(exact), "answer_f1_percent": 100 * float(overlap)}


def _best_span(scores: NDArray[np.float32], spans: NDArray[np.int64], text: str) -> tuple[float, str]:
    """Return the best score of a span of the text, and what stands there."""
    places = np.flatnonzero(spans[:, 0] >= 0)
    if not len(places):
        return -np.inf, ""
    both = scores[places, 0][:, None] + scores[places, 1]
    both = np.where(
        np.tri(len(places), k=-1, dtype=bool) | ~np.tri(len(places), k=LONGEST - 1, dtype=bool), -np.inf, both
    )
    first, last = np.unravel_index(both.argmax(), both.shape)
    return float(both[first, last]), text[spans[places[first], 0] : spans[places[last], 1]]


def exact_match(guessed: str, answer: str) -> float:
    """Return 1 where two answers are the same but for case, punctuation, articles and spaces, else 0."""
    return float(_words(guessed) == _words(answer))


def answer_f1(guessed: str, answer: str) -> float:
    """Return the F1 of the words of two answers, 0 to 1."""
    one, other = _words(guessed), _words(answer)
    if not one or not other:
        return float(one == other)
    shared = sum((Counter(one) & Counter(other)).values())
    return 2 * shared / (len(one) + len(other))


def _words(text: str) -> list[str]:
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()
