"""Tasks for encoders: sentences or sentence pairs with a class or a similarity score, and questions with answers."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from softmaxkit.models.data_sets import data_set
from softmaxkit.models.task_files import LABEL_COLUMNS, READERS, TEXT_COLUMNS, number_of

HELD_OUT = ("test", "validation", "val", "dev")
"""Names of files with held-out examples, in order of preference."""


Kind = Literal["classes", "similarity", "answers"]


class Answers(NamedTuple):
    """The correct answers to a question, as spans of its text: their strings, and the offsets at which they start."""

    texts: tuple[str, ...]
    starts: tuple[int, ...]


class Example(NamedTuple):
    """One or two sentences with a class from 0 or a score; or a question, its text and the answers."""

    first: str
    second: str | None
    label: float | Answers

    @property
    def number(self) -> float:
        """The label, which must be a class or a score."""
        assert not isinstance(self.label, Answers)
        return self.label


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: name to display.
        kind: kind of the labels: classes, similarity scores or answers.
        train: training examples; empty for a task without fine-tuning.
        held_out: evaluation examples.
    """

    name: str
    kind: Kind
    train: tuple[Example, ...]
    held_out: tuple[Example, ...]

    @property
    def classes(self) -> int:
        """The number of classes; 1 if the labels are not classes."""
        if self.kind != "classes":
            return 1
        return int(max(example.number for example in (*self.train, *self.held_out))) + 1

    @property
    def similarity(self) -> bool:
        """Whether the labels are similarity scores."""
        return self.kind == "similarity"

    def sampled(self, count: int, seed: int) -> Task:
        """Return the task with at most `count` training examples, drawn at random with a seed."""
        if count >= len(self.train):
            return self
        return Task(self.name, self.kind, tuple(random.Random(seed).sample(self.train, count)), self.held_out)


def read_task(source: str) -> Task:
    """Read a task from files or from a data set of the hub.

    Files have one example per line: .tsv (tabs, no quoting), .csv or .jsonl. Columns are identified by a header (label
    or score; sentence, text, sentence1, premise, question, ...). Without one, the first column is the label, and the
    last column is the sentence, or the last two are the sentence pair if there are three columns or more. If any label
    is not a whole number, the labels are similarity scores. Questions with answers are .jsonl files with the fields of
    `datasets`: question, context, and answers with text and answer_start; or .json files in SQuAD's own format.

    Args:
        source: a folder with a train file and a test, validation, val or dev file; a folder of other files, or a
            single file, which then has no training examples; or a name for `datasets`, with its configuration, such
            as "nyu-mll/glue:mrpc".

    Raises:
        ValueError: there is no such task, a column is missing, or a label is invalid; the message names the line.
    """
    path = Path(source)
    if not path.exists():
        return _from_hub(source)
    if path.is_file():
        return _checked(path.stem, (), tuple(_read(path)))
    tables = [file for file in sorted(path.iterdir()) if file.suffix in READERS]
    tables = [file for file in tables if file.suffix != ".json"] or tables  # next to tables, .json is likely metadata
    files = {file.stem: file for file in tables}
    if twice := [file.name for file in tables if files[file.stem] != file]:
        raise ValueError(f"{path} has both {twice[0]} and {files[Path(twice[0]).stem].name}; keep one of them")
    if not files:
        raise ValueError(f"{path} has no {', '.join(READERS)} file to read a task from")
    held_out = next((files[name] for name in HELD_OUT if name in files), None)
    if "train" not in files:
        measured = [held_out] if held_out else list(files.values())
        return _checked(path.name, (), tuple(example for file in measured for example in _read(file)))
    if held_out is None:
        raise ValueError(f"{path} has a train file but none to evaluate on; add one named {', '.join(HELD_OUT)}")
    return _checked(path.name, tuple(_read(files["train"])), tuple(_read(held_out)))


def _checked(name: str, train: tuple[Example, ...], held_out: tuple[Example, ...]) -> Task:
    """Return a task after checking that its examples are consistent."""
    if not held_out:
        raise ValueError(f"{name} has no examples to evaluate on")
    answers = {isinstance(example.label, Answers) for example in (*train, *held_out)}
    if len(answers) > 1:
        raise ValueError(f"{name} has answers in some of its examples and labels in others")
    if answers == {True}:
        return Task(name, "answers", train, held_out)
    similarity = any(example.number != int(example.number) for example in (*train, *held_out))
    if not similarity:
        low = min(example.number for example in (*train, *held_out))
        if low < 0:
            raise ValueError(f"{name} has the label {low:g}; classes must be whole numbers from 0")
        known = {example.number for example in train}
        if train and (new := {example.number for example in held_out} - known):
            raise ValueError(
                f"{name} has the label {min(new):g} in its held-out examples but not in its training examples, which "
                f"have {', '.join(f'{label:g}' for label in sorted(known))}"
            )
    pairs = {example.second is not None for example in (*train, *held_out)}
    if similarity and pairs == {False}:
        raise ValueError(f"{name} has scores for single sentences; similarity needs pairs of sentences")
    if len(pairs) > 1:
        raise ValueError(f"{name} has single sentences in some of its examples and pairs in others")
    return Task(name, "similarity" if similarity else "classes", train, held_out)


def _read(path: Path) -> Iterator[Example]:
    """Yield the examples of a file."""
    try:
        rows = READERS[path.suffix](path)
    except KeyError:
        raise ValueError(f"{path} is not a {', '.join(READERS)} file") from None
    try:
        yield from _examples(rows, str(path))
    except (UnicodeDecodeError, OSError, csv.Error) as error:
        raise ValueError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def _examples(rows: Iterator[tuple[int, Any]], where: str) -> Iterator[Example]:
    for line, row in rows:
        if isinstance(row, Mapping) and "answers" in row:
            yield _question(row, f"{where}, line {line}")
            continue
        if isinstance(row, Mapping):
            label = next((row[name] for name in LABEL_COLUMNS if name in row), None)
            texts = [str(row[name]) for name in TEXT_COLUMNS if row.get(name) is not None][:2]
            columns = f"the columns {', '.join(row)}"
        else:
            label, texts = row[0], list(row[1:] if len(row) < 3 else row[-2:])
            columns = f"{len(row)} columns"
        number = number_of(label)
        if not texts or label is None:
            raise ValueError(
                f"{where}, line {line}, has {columns}; a task needs a label ({', '.join(LABEL_COLUMNS)}) and one or "
                f"two sentences ({', '.join(TEXT_COLUMNS)}), or, without a header, the label first and the sentences "
                "last"
            )
        if number is None:
            raise ValueError(f"{where}, line {line}: the label must be a class from 0 or a score, got {label!r}")
        yield Example(texts[0], texts[1] if len(texts) > 1 else None, number)


def _question(row: Mapping[str, Any], where: str) -> Example:
    """Return a question with its answers, after checking that the text has them at their offsets."""
    question, context, answers = (row.get(name) for name in ("question", "context", "answers"))
    if not (isinstance(question, str) and isinstance(context, str) and isinstance(answers, Mapping)):
        raise ValueError(f"{where}, has {', '.join(row)}; a question needs question, context and answers")
    texts, starts = (answers.get(name) for name in ("text", "answer_start"))
    if not (isinstance(texts, list | tuple) and isinstance(starts, list | tuple) and len(texts) == len(starts)):
        raise ValueError(f"{where}: answers must have text and answer_start, lists of equal length, got {answers}")
    for text, start in zip(texts, starts, strict=True):
        if not (isinstance(text, str) and type(start) is int and start >= 0 and context.startswith(text, start)):
            raise ValueError(f"{where}: the answer {text!r} is not at character {start!r} of its context")
    return Example(question, context, Answers(tuple(texts), tuple(starts)))


def _from_hub(source: str) -> Task:
    """Read a task from a data set of the hub."""
    with data_set(source) as splits:
        # The test split comes last, because its labels are often hidden.
        held_out = next((splits[split] for split in (*HELD_OUT[1:], "test") if split in splits), None)
        if "train" not in splits or held_out is None:
            raise ValueError(f"it has the splits {', '.join(splits)}; a task needs train, and validation or test")
        return _checked(
            source,
            tuple(_examples(enumerate(splits["train"], 1), "train")),
            tuple(_examples(enumerate(held_out, 1), "held-out")),
        )
