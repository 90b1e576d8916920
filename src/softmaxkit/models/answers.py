"""Extractive question answering, as in SQuAD: windows of tokens, the best span, exact match and F1."""

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
"""Maximum length of a predicted answer, in tokens."""

OVERLAP = 3
"""Consecutive windows of a long text share 1/OVERLAP of their text tokens."""


class Window(NamedTuple):
    """A question followed by as much of its text as fits into the model's input.

    Attributes:
        example: index of the example.
        tokens: the model's inputs, with the first and last token of the answer as `start_positions` and
            `end_positions`; both are 0, the first token, if the answer is not in this window.
        spans: (tokens, 2), the start and end offset of each token in the text; -1 for tokens outside the text.
    """

    example: int
    tokens: dict[str, Any]
    spans: NDArray[np.int64]


class Windows(Dataset[dict[str, Any]]):
    """Examples split into windows of tokens, for training or evaluation.

    Args:
        examples: questions, their texts and their answers.
        tokenizer: the model's tokenizer, which must be a fast one.
        length: length of a window, in tokens.

    Raises:
        ValueError: the tokenizer does not return offsets, or the windows are too short for question and text.
    """

    def __init__(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, length: int) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} does not return the offsets of its tokens; use a fast tokenizer"
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
    encoded_question = tokenizer(example.first, add_special_tokens=False, return_offsets_mapping=True)
    longest = length // 2
    question_offsets = encoded_question["offset_mapping"]
    question = example.first[: question_offsets[longest][0] if len(question_offsets) > longest else None]
    count = len(tokenizer(question, add_special_tokens=False)["input_ids"])
    room = length - count - tokenizer.num_special_tokens_to_add(pair=True)
    if room < OVERLAP:
        raise ValueError(f"windows of {length} tokens leave no room for text after the question; 384 is usual")
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
    """Return the first and last token of the first answer; (0, 0) if the window does not contain all of it."""
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
    """Return `exact_match_percent` and `answer_f1_percent`: each question's best score over its answers, averaged.

    Args:
        model: a model with a question-answering head.
        tokenizer: the model's tokenizer.
        examples: the evaluation set. If some of its questions have no answer, the model may decline to answer, by
            scoring the first token highest.
        length: length of a window, in tokens.
        size: windows per batch.
        tick: progress callback; receives the number of examples completed since its last call.

    Raises:
        FloatingPointError: the model returns NaN or infinity.

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
    """Return the highest score of any span of the text, and that span."""
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
    """Return 1 if two answers are equal except for case, punctuation, articles and spaces, else 0."""
    return float(_words(guessed) == _words(answer))


def answer_f1(guessed: str, answer: str) -> float:
    """Return the F1 score of the words of two answers, 0 to 1."""
    one, other = _words(guessed), _words(answer)
    if not one or not other:
        return float(one == other)
    shared = sum((Counter(one) & Counter(other)).values())
    return 2 * shared / (len(one) + len(other))


def _words(text: str) -> list[str]:
    unpunctuated = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", unpunctuated).split()
