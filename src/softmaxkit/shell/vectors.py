"""Beats of AXI4-Stream for the test bench of a shell: what goes in, and what golden and the shell make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from softmaxkit.flow.interface import whole_bytes
from softmaxkit.flow.vectors import Rows, pack
from softmaxkit.shell.register_map import RegisterMap

if TYPE_CHECKING:
    from softmaxkit.flow.vectors import Booleans, Integers, Packed
    from softmaxkit.methods.base.constants import Constants
    from softmaxkit.shell.shell import Shell


@dataclass
class Vectors:
    """What a bench sends and what has to come.

    Attributes:
        scores, results: beats in and out, packed.
        writes: `(after beats, address, word)`.
        reads: `(address, word)` once all is through.
        numbers: at the ports that a shell without AXI4-Lite has for them.
        taken, rows: how many beats of scores, and rows, there are.
    """

    scores: list[Packed] = field(default_factory=list)
    results: list[Packed] = field(default_factory=list)
    writes: list[tuple[int, int, int]] = field(default_factory=list)
    reads: list[tuple[int, int]] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    taken: int = 0
    rows: int = 0


LAST_OF_GROUP = 1 << 31
"""Set in the address of a word of constants that closes its group, where they have a stream of their own."""


def shell_vectors(shell: Shell, segments: Sequence[tuple[Constants, Rows]]) -> Vectors:
    """Return the vectors of rows with their constants.

    By number, rows are the first of each segment, all of one length, in causal blocks. Tags follow each other, row by
    row, and where they have constants, these are those of the segments in turn.

    Args:
        shell: of a unit.
        segments: sets of constants with rows.
    """
    unit, options, vectors = shell.unit, shell.options, Vectors()
    sets = list(dict.fromkeys(constants for constants, _ in segments))
    a_tag = [sets[tag % len(sets)] for tag in range(options.tags)] if shell.map and shell.map.sets > 1 else []
    length = min(unit.max_row, max(2, unit.max_row * 3 // 4)) if options.row_length else 0
    if options.row_length:
        _numbers(shell, vectors, length)
    for constants, rows in segments:
        if unit.registers is not None and (not a_tag or not vectors.taken):
            _constants(shell, vectors, a_tag or [constants])
        given = _numbered(rows, length, vectors.rows) if length else rows
        tags = np.arange(len(given.lengths)) % max(options.tags, 1)
        golden = np.zeros(given.codes.shape, np.int64)
        for tag, own in enumerate(a_tag or [constants]):
            some = tags == tag if a_tag else np.full(len(tags), True)
            golden[some] = unit.golden(np.where(given.real, given.codes, 0)[some], given.mask[some], own)
        _beats(shell, vectors, given, golden, tags)
    if shell.map is not None:
        _reads(shell.map, vectors)
    return vectors


def _numbers(shell: Shell, vectors: Vectors, length: int) -> None:
    """Set the length of all rows, and a causal mask."""
    numbers = {"row_length": length, "causal": 1, "causal_offset": 1, "block_rows": length}
    if shell.map is None:
        vectors.numbers = {**numbers, "block_restart": 0}
    else:
        address = {register.name: register.address for register in shell.map.registers}
        vectors.writes += [(0, address[name], value) for name, value in numbers.items()]
        vectors.reads += [(address[name], value) for name, value in numbers.items()]


def _constants(shell: Shell, vectors: Vectors, sets: Sequence[Constants]) -> None:
    """Write sets of constants, before the next beat."""
    for at, constants in enumerate(sets):
        words = shell.unit.writes(constants)
        if shell.map is None:
            closing = [0] * (len(words) - 1) + [LAST_OF_GROUP]
            vectors.writes += [(vectors.taken, a | last, w) for (a, w), last in zip(words, closing, strict=True)]
            continue
        first = shell.map.base + at * shell.map.stride
        placed = [(first + 4 * address, word) for address, word in words]
        vectors.writes += [(vectors.taken, *each) for each in placed]
        if shell.map.readable:
            vectors.reads = [each for each in vectors.reads if each[0] not in dict(placed)] + placed
    if shell.map is not None:
        load = next(register.address for register in shell.map.registers if register.name == "constants")
        vectors.writes.append((vectors.taken, load, 1))


def _numbered(rows: Rows, length: int, before: int) -> Rows:
    """Return rows of one length with the mask that the numbers of `_numbers` say; so many rows went before."""
    width = rows.codes.shape[1]
    codes = np.pad(rows.codes, ((0, 0), (0, max(length - width, 0))), mode="edge")[:, :length]
    place = np.arange(length)
    of_block = (before + np.arange(len(codes))) % length
    return Rows(codes, place < of_block[:, None] + 2, np.full(len(codes), length))


def _beats(shell: Shell, vectors: Vectors, rows: Rows, golden: Integers, tags: Integers) -> None:
    """Add the beats of rows, in and out."""
    unit, options = shell.unit, shell.options
    lanes = unit.lanes
    taken = -(-rows.lengths // lanes)
    width = int(taken.max()) * lanes
    number = np.arange(width // lanes)
    chosen = number < taken[:, None]
    last = (number == taken[:, None] - 1)[chosen][:, None].astype(np.int64)
    tag = np.broadcast_to(tags[:, None], chosen.shape)[chosen][:, None]

    def by_beats(values: Integers | Booleans) -> Integers:
        padded = np.zeros((len(values), width), np.int64)
        padded[:, : values.shape[1]] = values[:, :width]
        beats: Integers = padded.reshape(len(values), -1, lanes)[chosen]
        return beats

    code_bytes, result_bytes = (whole_bytes(bits) // 8 for bits in (unit.code_shape.width, unit.result_bits))
    kept = by_beats(rows.real)
    codes = by_beats(rows.codes) & ((1 << unit.code_shape.width) - 1)
    source, sink = [(codes, 8 * code_bytes)], [(by_beats(golden), 8 * result_bytes)]
    if options.keep:
        source.append((np.repeat(kept, code_bytes, axis=1), 1))
        sink.append((np.repeat(kept, result_bytes, axis=1), 1))
    if not options.row_length:
        source += [(by_beats(rows.mask), 1), (last, 1)]
    sink.append((last, 1))
    if options.tags:
        source.append((tag, options.tag_bits))
        sink.append((tag, options.tag_bits))
    vectors.scores.append(pack(source))
    vectors.results.append(pack(sink))
    vectors.taken += len(last)
    vectors.rows += len(rows.lengths)


def _reads(registers: RegisterMap, vectors: Vectors) -> None:
    """Read what is known of the shell's own registers in the end: constants, and that there was no error."""
    for register in registers.registers:
        word, at = 0, 0
        for each in register.fields:
            word, at = word | each.reset << at, at + each.bits
        if all(each.access in ("constant", "read", "clear ones") for each in register.fields):
            vectors.reads.append((register.address, word))
