"""Read a text as tokens: bytes, a vocabulary learned from the text, or the tokenizer of a pretrained model."""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from softmaxkit.models.data_sets import data_set
from softmaxkit.models.language_model import learned_tokens
from softmaxkit.models.words import Words
from softmaxkit.recipe import BYTES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HELD_OUT_SHARE = 10
"""The last 1/HELD_OUT_SHARE of the text is held out from training."""

CALIBRATION_BATCHES = 25
"""Number of calibration batches in EXAQ's paper."""
CALIBRATION_SCORES = 1 << 21
"""Default limit of calibration, in scores per head: of long windows, fewer are used."""

SCORES_AT_ONCE = 1 << 22
"""Limit of a batch without gradients, in scores per head, so that the scores fit into memory."""

DATA_SET_BYTES = 100_000_000
"""How many bytes of a data set's text are read."""

STANDARD_LIBRARY_BYTES = 1_200_000


@dataclass(frozen=True)
class Corpus:
    """A text, split into a training part and a held-out part.

    Attributes:
        name: name of its source.
        size: size in bytes.
        sha256: hash of the bytes.
        train: tokens, int64 (tokens,).
        held_out: tokens, int64 (tokens,), the last tenth.
        words: the word boundaries of the vocabulary; None for bytes.
    """

    name: str
    size: int
    sha256: str
    train: Tensor
    held_out: Tensor
    words: Words | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of the tokens."""
        return hashlib.sha256(torch.cat([self.train, self.held_out]).numpy().tobytes()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return the text's entry in a record."""
        return {
            "name": self.name,
            "bytes": self.size,
            "sha256": self.sha256,
            "train_tokens": len(self.train),
            "held_out_tokens": len(self.held_out),
        }

    def held_out_windows(self, context: int, count: int) -> Tensor:
        """Return up to `count` evenly spread, non-overlapping windows of `context + 1` held-out tokens.

        Raises:
            ValueError: the held-out part is shorter than one window.
        """
        return _windows(self.held_out, context, count, f"the held-out tenth of {self.name}")

    def calibration_batches(self, context: int, batch: int = 16, count: int | None = None) -> list[Tensor]:
        """Return batches of evenly spread windows of `context` tokens from the training part.

        Args:
            context: tokens per window.
            batch: windows per batch; reduced for long windows, see `windows_at_once` and `CALIBRATION_SCORES`.
            count: number of batches; None for 25, or fewer for long windows, see `CALIBRATION_SCORES`.

        Raises:
            ValueError: the training part is shorter than one window.
        """
        batch = min(windows_at_once(batch, context), -(-CALIBRATION_SCORES // context**2))
        if count is None:
            count = min(CALIBRATION_BATCHES, -(-CALIBRATION_SCORES // (batch * context**2)))
        windows = _windows(self.train, context, count * batch, f"the training part of {self.name}")[:, :-1]
        return [windows[start : start + batch] for start in range(0, len(windows), batch)]


def windows_at_once(most: int, context: int) -> int:
    """Return how many windows to run at once so that the scores of long ones fit into memory, at most `most`."""
    return max(1, min(most, SCORES_AT_ONCE // context**2))


def read_corpus(path: Path | None, tokenizer: PreTrainedTokenizerBase | None = None, learned: int = 0) -> Corpus:
    """Read a text file, or, for None, the Python standard library's own source.

    Args:
        path: a file, UTF-8 or any other text, read as bytes; or the name of a data set on the hub, with its
            configuration, such as "Salesforce/wikitext:wikitext-2-raw-v1", whose column "text" is read.
        tokenizer: the tokenizer; if None, tokens are bytes.
        learned: if above 256, the size of a vocabulary that is learned from the training part and replaces `tokenizer`.

    Raises:
        ValueError: the file is missing, a folder, empty, not text, or too short for this vocabulary.
    """
    if path is None:
        name, data = "Python standard library source", standard_library_source(STANDARD_LIBRARY_BYTES)
    else:
        name, data = path.name, read_bytes(path)
    if learned > BYTES:
        tokenizer = learned_tokens(data[: len(data) - len(data) // HELD_OUT_SHARE].decode("utf-8", "replace"), learned)
    if tokenizer is None:
        tokens = torch.frombuffer(bytearray(data), dtype=torch.uint8).long()
    else:
        text = data.decode("utf-8", errors="replace")
        tokens = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    cut = len(tokens) - len(tokens) // HELD_OUT_SHARE
    words = None if tokenizer is None else Words.of(tokenizer)
    return Corpus(name, len(data), hashlib.sha256(data).hexdigest(), tokens[:cut], tokens[cut:], words)


def standard_library_source(limit: int) -> bytes:
    """Return the first `limit` bytes of the Python standard library's source files, sorted by name."""
    parts, size = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        parts.append(path.read_bytes())
        size += len(parts[-1])
        if size >= limit:
            break
    return b"".join(parts)[:limit]


class NextToken(Dataset[dict[str, Tensor]]):
    """All windows of `context` tokens, labelled with the token that follows each of their tokens."""

    def __init__(self, tokens: Tensor, context: int) -> None:
        if len(tokens) <= context:
            raise ValueError(
                f"the training part of the text has {len(tokens)} tokens; a context of {context} needs at least "
                f"{context + 1}; give a longer text"
            )
        self.tokens, self.context = tokens, context

    def __len__(self) -> int:
        return len(self.tokens) - self.context

    def __getitem__(self, start: int) -> dict[str, Tensor]:
        window = self.tokens[start : start + self.context + 1]
        return {"input_ids": window[:-1], "labels": window[1:]}


def _windows(tokens: Tensor, context: int, count: int, what: str) -> Tensor:
    available = (len(tokens) - 1) // context
    if available < 1:
        raise ValueError(
            f"{what} has {len(tokens)} tokens; a context of {context} needs {context + 1}; give a longer text"
        )
    chosen = torch.linspace(0, available - 1, min(count, available)).round().long()
    return torch.stack([tokens[i * context : i * context + context + 1] for i in chosen.tolist()])


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a text file or of a data set's texts.

    Raises:
        ValueError: it cannot be read, is empty, or is not text.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        if len(path.parts) != 2 or path.suffix or path.is_absolute():  # not the "owner/name" of a data set
            raise ValueError(f"cannot read the text {path}: {error.strerror}") from None
        data = _data_set(str(path))
    except OSError as error:
        raise ValueError(f"cannot read the text {path}: {error.strerror}") from None
    if not data.strip():
        raise ValueError(f"the text {path} is empty")
    if b"\0" in data:
        raise ValueError(f"{path} is not text: it contains zero bytes; give a plain text file")
    return data


@cache
def _data_set(source: str) -> bytes:
    """Return the texts of a data set's train split, up to `DATA_SET_BYTES`."""
    parts: list[bytes] = []
    size = 0
    with data_set(source, split="train", streaming=True) as rows:
        for row in rows:
            if "text" not in row:
                raise ValueError(f"it has the columns {', '.join(row)}, but none named text")
            parts.append(row["text"].encode())
            size += len(parts[-1])
            if size >= DATA_SET_BYTES:
                break
    return b"".join(parts)[:DATA_SET_BYTES]
