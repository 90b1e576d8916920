"""Extractive question answering: reading, windows, spans and scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from softmaxkit.models.answers import Windows, _best_span, answer_f1, exact_match, measure_answers
from softmaxkit.models.language_model import learned_tokens
from softmaxkit.models.tasks import Answers, Example, read_task

TEXT = "Ada was born in London. Alan was born in Paris. Grace was born in New York."


def asked(question: str, answer: str) -> Example:
    return Example(question, TEXT, Answers((answer,), (TEXT.index(answer),)))


EXAMPLES = [asked("where was Ada born?", "London"), asked("where was Grace born?", "New York")]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    learned_tokenizer = learned_tokens(TEXT * 4 + "where was Ada born? " * 4, 290)
    learned_tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    return learned_tokenizer


def test_squad_and_json_lines_give_equal_examples(tmp_path: Path) -> None:
    lines = [
        {
            "id": "1",
            "question": example.first,
            "context": TEXT,
            "answers": {"text": example.label.texts, "answer_start": [at]},
        }
        for example in EXAMPLES
        if isinstance(example.label, Answers)
        for at in example.label.starts
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    qas = [
        {
            "question": example.first,
            "answers": [{"text": example.label.texts[0], "answer_start": example.label.starts[0]}],
        }
        for example in EXAMPLES
        if isinstance(example.label, Answers)
    ]
    (tmp_path / "dev.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": TEXT, "qas": qas}]}]}))
    for name in ("test.jsonl", "dev.json"):
        task = read_task(str(tmp_path / name))
        assert (task.kind, task.held_out, task.classes) == ("answers", tuple(EXAMPLES), 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"question": "?", "answers": {"text": [], "answer_start": []}}, "has question, answers; a question needs"),
        (
            {"question": "?", "context": "abc", "answers": {"text": ["b"], "answer_start": [2]}},
            "'b' is not at character 2",
        ),
        ({"question": "?", "context": "abc", "answers": "b"}, "a question needs question, context and answers"),
        ({"question": "?", "context": "abc", "answers": {"text": ["b"], "answer_start": ["1"]}}, "at character '1'"),
        ({"question": "?", "context": "abc", "answers": {"text": ["a"], "answer_start": [-3]}}, "at character -3"),
        ({"question": "?", "context": "abc", "answers": {"text": ["b"], "answer_start": [True]}}, "at character True"),
        ({"question": "?", "context": "abc", "answers": {"text": None}}, "lists of equal length"),
        (
            {"question": "?", "context": "abc", "answers": {"text": ["b"], "answer_start": []}},
            "lists of equal length",
        ),
    ],
)
def test_invalid_answers_are_refused(line: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps(line))
    with pytest.raises(ValueError, match=message):
        read_task(str(tmp_path))
    (tmp_path / "test.jsonl").unlink()
    (tmp_path / "dev.json").write_text(json.dumps({"data": [line]}))
    with pytest.raises(ValueError, match="does not have SQuAD's format"):
        read_task(str(tmp_path))


@pytest.mark.parametrize("length", [16, 24, 40, 200])
def test_windows_contain_every_answer(length: int, tokenizer: Any) -> None:
    windows = Windows(EXAMPLES, tokenizer, length)
    answered = set()
    for window in windows.windows:
        assert len(window.tokens["input_ids"]) == len(window.spans) <= length
        first, last = window.tokens["start_positions"], window.tokens["end_positions"]
        if (first, last) != (0, 0):
            said = TEXT[window.spans[first, 0] : window.spans[last, 1]].strip()
            assert said == EXAMPLES[window.example].label.texts[0]  # type: ignore[union-attr]
            answered.add(window.example)
    assert answered == {0, 1}
    assert len(windows) == 2 or length < 200


def test_spaces_around_an_answer_are_ignored(tokenizer: Any) -> None:
    places = [
        (window.tokens["start_positions"], window.tokens["end_positions"])
        for text in ("London", " London")
        for window in Windows([Example("where?", TEXT, Answers((text,), (TEXT.index(text),)))], tokenizer, 200).windows
    ]
    assert places[0] == places[1] != (0, 0)


@pytest.mark.parametrize("question", ["where was Ada born? " * 9, "日本語" * 30], ids=["words", "bytes"])
def test_long_questions_are_truncated(question: str, tokenizer: Any) -> None:
    windows = Windows([Example(question, TEXT, Answers(("London",), (TEXT.index("London"),)))], tokenizer, 20).windows
    assert max(len(window.spans) for window in windows) <= 20
    assert any(window.tokens["end_positions"] for window in windows)
    with pytest.raises(ValueError, match="windows of 2 tokens leave no room for text after the question"):
        Windows([Example(question, TEXT, Answers((), ()))], tokenizer, 2)


def test_the_best_span_lies_in_the_text_is_ordered_and_short() -> None:
    spans = np.array([[-1, -1], *([place, place + 1] for place in range(50))])
    scores = np.zeros((51, 2), np.float32)
    scores[0] = 9.0  # not part of the text
    scores[45, 0], scores[3, 1], scores[48, 1], scores[2, 0] = 3.0, 4.0, 2.0, 1.5
    # A span that ends before it starts, and one that is too long, have higher scores.
    assert _best_span(scores, spans, "x" * 44 + "yes!" + "x" * 9) == (5.5, "xx")
    scores[3, 1] = 0.0
    assert _best_span(scores, spans, "x" * 44 + "yes!" + "x" * 9) == (5.0, "yes!")


class Oracle(BertForQuestionAnswering):  # type: ignore[misc, unused-ignore]
    """A model that points to the correct answers."""

    positions: list[tuple[int, int]]

    def forward(self, input_ids: torch.Tensor, **rest: Any) -> QuestionAnsweringModelOutput:
        start, end = torch.zeros(2, *input_ids.shape)
        for row in range(len(input_ids)):
            first, last = self.positions.pop(0)
            start[row, first], end[row, last] = 5.0, 5.0
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)


def oracle(positions: list[tuple[int, int]]) -> Oracle:
    config = BertConfig(vocab_size=320, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    model = Oracle(config)
    model.positions = positions
    return model


@pytest.mark.parametrize("length", [24, 200])
def test_a_perfect_model_scores_100_percent(length: int, tokenizer: Any) -> None:
    unanswered = Example("where was Bob born?", TEXT, Answers((), ()))
    for examples in (EXAMPLES, [*EXAMPLES, unanswered]):
        windows = Windows(examples, tokenizer, length).windows
        positions = [(window.tokens["start_positions"], window.tokens["end_positions"]) for window in windows]
        done: list[int] = []
        metrics = measure_answers(oracle(positions), tokenizer, examples, length, 3, done.append)
        if length == 200:  # shorter windows may lack the answer and point to the first token
            assert metrics == {"exact_match_percent": 100, "answer_f1_percent": 100}
        assert sum(done) == len(examples)
    tokenizer.padding_side = "left"
    windows = Windows(EXAMPLES, tokenizer, 200).windows
    positions = [(window.tokens["start_positions"], window.tokens["end_positions"]) for window in windows]
    assert measure_answers(oracle(positions), tokenizer, EXAMPLES, 200, 3, done.append)["exact_match_percent"] == 100
    wrong = [(0, 0)] * len(windows)
    assert measure_answers(oracle(wrong), tokenizer, EXAMPLES, 200, 3, done.append)["exact_match_percent"] == 0


def test_exact_match_and_f1() -> None:
    assert exact_match("The  London!", "london") == 1
    assert exact_match("in London", "London") == 0
    assert answer_f1("in London", "London") == pytest.approx(2 / 3)
    assert answer_f1("New York", "York New York") == pytest.approx(4 / 5)
    assert answer_f1("", "London") == 0
    assert answer_f1("", "the") == 1
