"""The file formats of tasks: tables, JSON lines, and SQuAD's own JSON."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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


def _delimited(path: Path) -> Iterator[tuple[int, Mapping[str, str] | Sequence[str]]]:
    """Yield the rows of a table with their line numbers; as dicts if the table has a header."""
    with path.open(encoding="utf-8", newline="") as file:
        tabs = path.suffix == ".tsv"
        reader = csv.reader(
            file, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
        )
        header: list[str] | None = None
        for row in reader:
            if not row:
                continue
            if reader.line_num == 1 and number_of(row[0]) is None:
                names = [name.strip().lower() for name in row]
                # If the label is the only known column and comes first, the sentences are taken by position.
                positional = names[0] in LABEL_COLUMNS or not any(name in names for name in LABEL_COLUMNS)
                header = names if any(name in names for name in TEXT_COLUMNS) or not positional else None
                continue
            yield reader.line_num, dict(zip(header, row, strict=False)) if header else row


def _json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the objects of a JSON lines file with their line numbers."""
    # Not splitlines(), which also splits at characters such as U+2028 that JSON strings may contain.
    for line, text in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if text.strip():
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {line}, is not JSON: {error}") from None
            if not isinstance(row, Mapping):
                raise ValueError(f"{path}, line {line}, must be a JSON object, got {text.strip()[:40]}")
            yield line, row


def _squad(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the numbered questions of a file in SQuAD's own format, with the fields of `datasets`."""
    try:
        rows = [
            {
                "question": question["question"],
                "context": part["context"],
                "answers": {
                    name: [answer[name] for answer in question["answers"]] for name in ("text", "answer_start")
                },
            }
            for article in json.loads(path.read_text(encoding="utf-8"))["data"]
            for part in article["paragraphs"]
            for question in part["qas"]
        ]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not have SQuAD's format (data, paragraphs, qas, answers): {error!r}") from None
    yield from enumerate(rows, 1)


READERS: dict[str, Any] = {".tsv": _delimited, ".csv": _delimited, ".jsonl": _json_lines, ".json": _squad}
"""Functions that yield the rows of a file with their line numbers, by suffix."""


def number_of(text: Any) -> float | None:
    """Return a label as a finite number; None if it is not one."""
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
