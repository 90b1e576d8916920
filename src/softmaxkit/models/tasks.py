"""Tasks for encoders: sentences, or pairs of them, with a label or a score of similarity."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from softmaxkit.models.data_sets import data_set

LABEL_COLUMNS = ("label", "labels", "score", "quality")
TEXT_COLUMNS = (
    "sentence",
    "text",
    "sentence1",
    "premise",
    "question",
    "question1",
    "sentence2",
    "hypothesis",
    "question2",
)
HELD_OUT = ("test", "validation", "val", "dev")
"""How a file or split of held-out examples is called, the first that there is being taken."""


class Example(NamedTuple):
    """One example: a sentence, or two, and its label: a class from 0, or a score."""

    first: str
    second: str | None
    label: float


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: for people.
        similarity: are the labels scores of similarity? Else classes.
        train: what to fine-tune on; empty where a task is only measured.
        held_out: what to measure on.
    """

    name: str
    similarity: bool
    train: tuple[Example, ...]
    held_out: tuple[Example, ...]

    @property
    def classes(self) -> int:
        """How many classes there are; 1 of similarity."""
        return 1 if self.similarity else int(max(each.label for each in (*self.train, *self.held_out))) + 1

    def sampled(self, count: int, seed: int) -> Task:
        """Return the task with at most so many examples to train on, drawn by a seed."""
        if count >= len(self.train):
            return self
        return Task(self.name, self.similarity, tuple(random.Random(seed).sample(self.train, count)), self.held_out)


def read_task(source: str) -> Task:
    """Read a task.

    Files hold an example a line: .tsv (tabs, no quoting), .csv, or .jsonl. Columns are found by their names in a header
    (label or score; sentence, text, sentence1, premise, question, ...), else the first is the label and the sentences
    are the last, or the last two of three and more. Labels that are not all whole numbers are scores of similarity.

    Args:
        source: a folder with a train file and a test, validation, val or dev file; a folder of other files, or one
            file, which is only measured on; or a name for `datasets`, with its configuration, as "nyu-mll/glue:mrpc".

    Raises:
        ValueError: nothing is found, a column is missing, or a label is none; the message says in which line.
    """
    path = Path(source)
    if not path.exists():
        return _from_hub(source)
    if path.is_file():
        return _checked(path.stem, (), tuple(_read(path)))
    files = {each.stem: each for each in sorted(path.iterdir()) if each.suffix in READERS}
    if not files:
        raise ValueError(f"{path} has no {', '.join(READERS)} file to read a task from")
    held_out = next((files[name] for name in HELD_OUT if name in files), None)
    if "train" not in files:
        measured = [held_out] if held_out else list(files.values())
        return _checked(path.name, (), tuple(example for each in measured for example in _read(each)))
    if held_out is None:
        raise ValueError(f"{path} has a train file but none to measure on: {', '.join(HELD_OUT)}")
    return _checked(path.name, tuple(_read(files["train"])), tuple(_read(held_out)))


def _checked(name: str, train: tuple[Example, ...], held_out: tuple[Example, ...]) -> Task:
    """Make a task of examples that go together."""
    if not held_out:
        raise ValueError(f"{name} has no examples to measure on")
    similarity = any(each.label != int(each.label) for each in (*train, *held_out))
    if not similarity:
        low = min(each.label for each in (*train, *held_out))
        if low < 0:
            raise ValueError(f"{name} has the label {low:g}; classes are whole numbers from 0")
        known = {each.label for each in train}
        if train and (new := {each.label for each in held_out} - known):
            raise ValueError(
                f"{name} is measured on the label {min(new):g}, which is not among those trained on: "
                f"{', '.join(f'{label:g}' for label in sorted(known))}"
            )
    pairs = {each.second is not None for each in (*train, *held_out)}
    if similarity and pairs == {False}:
        raise ValueError(f"{name} has scores but single sentences; similarity is that of two")
    if len(pairs) > 1:
        raise ValueError(f"{name} has sentences in some of its files and pairs of them in others")
    return Task(name, similarity, train, held_out)


def _read(path: Path) -> Iterator[Example]:
    """Yield the examples of a file."""
    try:
        rows = READERS[path.suffix](path)
    except KeyError:
        raise ValueError(f"{path} is no {', '.join(READERS)} file") from None
    try:
        yield from _examples(rows, str(path))
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def _delimited(path: Path) -> Iterator[tuple[int, Mapping[str, str] | Sequence[str]]]:
    """Yield the rows of a table with their lines; by names where it has a header."""
    with path.open(encoding="utf-8", newline="") as file:
        tabs = path.suffix == ".tsv"
        reader = csv.reader(
            file, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
        )
        header: list[str] | None = None
        for row in reader:
            if not row:
                continue
            if reader.line_num == 1 and _number(row[0]) is None:
                names = [name.strip().lower() for name in row]
                # Where only the label's name is known, and it comes first, the sentences come last.
                positional = names[0] in LABEL_COLUMNS or not any(each in names for each in LABEL_COLUMNS)
                header = names if any(each in names for each in TEXT_COLUMNS) or not positional else None
                continue
            yield reader.line_num, dict(zip(header, row, strict=False)) if header else row


def _json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the objects of a file of JSON lines."""
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if text.strip():
            try:
                yield line, json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {line}, is no JSON: {error}") from None


READERS: dict[str, Any] = {".tsv": _delimited, ".csv": _delimited, ".jsonl": _json_lines}


def _examples(rows: Iterator[tuple[int, Any]], where: str) -> Iterator[Example]:
    for line, row in rows:
        if isinstance(row, Mapping):
            label = next((row[name] for name in LABEL_COLUMNS if name in row), None)
            texts = [str(row[name]) for name in TEXT_COLUMNS if row.get(name) is not None][:2]
            given = f"the columns {', '.join(row)}"
        else:
            label, texts = row[0], list(row[1:] if len(row) < 3 else row[-2:])
            given = f"{len(row)} columns"
        number = _number(label)
        if not texts or label is None:
            raise ValueError(
                f"{where}, line {line}, has {given}; a task has a label ({', '.join(LABEL_COLUMNS)}) and one or two "
                f"sentences ({', '.join(TEXT_COLUMNS)}), or, without a header, the label first and the sentences last"
            )
        if number is None:
            raise ValueError(f"{where}, line {line}: the label is a class from 0, or a score, not {label!r}")
        yield Example(texts[0], texts[1] if len(texts) > 1 else None, number)


def _number(text: Any) -> float | None:
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _from_hub(source: str) -> Task:
    """Read a task by `datasets`."""
    with data_set(source) as splits:
        # The labels of a test split are often hidden.
        held_out = next((splits[each] for each in (*HELD_OUT[1:], "test") if each in splits), None)
        if "train" not in splits or held_out is None:
            raise ValueError(f"it has the splits {', '.join(splits)}; a task has train, and validation or test")
        return _checked(
            source,
            tuple(_examples(enumerate(splits["train"], 1), "train")),
            tuple(_examples(enumerate(held_out, 1), "held-out")),
        )
