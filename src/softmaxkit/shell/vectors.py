"""AXI4-Stream beats for the test bench of a shell: inputs, and the outputs expected from golden and the shell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from softmaxkit.flow.interface import whole_bytes
from softmaxkit.flow.vectors import Rows, pack
from softmaxkit.shell.register_map import WORD, RegisterMap

if TYPE_CHECKING:
    from softmaxkit.flow.vectors import Booleans, Integers, Packed, Segments
    from softmaxkit.methods.base.constants import Constants, Sets
    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.shell.shell import Shell


SEED, HOLES = 1, 1 / 16
"""Random seed and fraction of the positions that are not kept."""


@dataclass
class Vectors:
    """The stimuli of a test bench and its expected responses.

    Attributes:
        scores, results: input and expected output beats, packed.
        writes: `(beats sent before, address, word)`.
        reads: `(address, expected word)`, read at the end.
        numbers: values of the parameter ports of a shell without AXI4-Lite.
        beats, rows: number of input beats and of rows so far.
    """

    scores: list[Packed] = field(default_factory=list)
    results: list[Packed] = field(default_factory=list)
    writes: list[tuple[int, int, int]] = field(default_factory=list)
    reads: list[tuple[int, int]] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    beats: int = 0
    rows: int = 0


LAST_OF_GROUP = 1 << 31
"""Flag in the address of a write to `s_axis_cfg` that ends its group."""


def shell_vectors(shell: Shell, segments: Segments) -> Vectors:
    """Return the vectors for rows and their constants.

    With `tkeep`, some positions are not kept. If the shell truncates long rows, the last row of a segment is too long.
    With row lengths as a parameter, all rows have one length and form causal blocks. Tags cycle from row to row; if
    they select constants, the tags get those of the segments in turn.

    Args:
        shell: whose test bench it is.
        segments: sets of constants, each with its rows.
    """
    unit, options, vectors = shell.unit, shell.options, Vectors()
    random = np.random.default_rng(SEED)
    sets = list(dict.fromkeys(constants for constants, _ in segments))
    several = shell.map and shell.map.sets > 1 and unit.sets == 1
    a_tag = [sets[tag % len(sets)] for tag in range(options.tags)] if several else []
    length = max(unit.max_row - 1, 1) if options.row_length else 0
    if length:
        _set_parameters(shell, vectors, length)
    for constants, rows in segments:
        if unit.registers is not None and (not a_tag or not vectors.beats):
            _constants(shell, vectors, a_tag or [constants])
        if length:
            sent = _with_one_length(rows, length, vectors.rows)
        else:
            sent = _with_too_long_row(rows, unit) if unit.holds_rows and options.status else rows
        kept = sent.real & ((random.random(sent.real.shape) > HOLES) | (not options.keep))
        tags = np.arange(len(sent.lengths)) % max(options.tags, 1)
        if unit.sets > 1:
            sent = replace(sent, sets=np.where(tags < unit.sets, tags, 0))
        _beats(shell, vectors, sent, kept, _golden(unit, sent, kept, a_tag or [constants], tags), tags)
    if shell.map is not None:
        _final_reads(shell.map, vectors, cut=not length and unit.holds_rows)
    return vectors


def _golden(
    unit: SoftmaxUnit, sent: Rows, kept: Booleans, sets: Sequence[Constants | Sets], tags: Integers
) -> Integers:
    """Return the results of the positions that fit, with one set of constants for all rows or one per tag."""
    fitting = slice(unit.max_row if unit.holds_rows else None)
    codes, mask = np.where(kept, sent.codes, 0)[:, fitting], (sent.mask & kept)[:, fitting]
    golden = np.zeros(codes.shape, np.int64)
    for tag, constants in enumerate(sets):
        some = tags == tag if len(sets) > 1 else np.full(len(tags), True)
        golden[some] = unit.golden(codes[some], mask[some], constants, sent.taken(some).sets)
    return golden


def _set_parameters(shell: Shell, vectors: Vectors, length: int) -> None:
    """Set the length of all rows, and a causal mask."""
    numbers = {"row_length": length, "causal": 1, "causal_offset": 1, "block_rows": length}
    if shell.map is None:
        vectors.numbers = {**numbers, "block_restart": 0}
    else:
        address = {register.name: register.address for register in shell.map.registers}
        vectors.writes += [(0, address[name], value) for name, value in numbers.items()]
        vectors.reads += [(address[name], value) for name, value in numbers.items()]


def _constants(shell: Shell, vectors: Vectors, sets: Sequence[Constants | Sets]) -> None:
    """Write sets of constants before the next beat."""
    for at, constants in enumerate(sets):
        words = shell.unit.writes(constants)
        if shell.map is None:
            closing = [0] * (len(words) - 1) + [LAST_OF_GROUP]
            vectors.writes += [(vectors.beats, a | last, w) for (a, w), last in zip(words, closing, strict=True)]
            continue
        placed = [(_address(shell, at, address), word) for address, word in words]
        vectors.writes += [(vectors.beats, *write) for write in placed]
        if shell.map.readable:
            vectors.reads = [read for read in vectors.reads if read[0] not in dict(placed)] + placed
    if shell.map is not None:
        load = next(register.address for register in shell.map.registers if register.name == "constants")
        vectors.writes.append((vectors.beats, load, 1))


def _address(shell: Shell, of_set: int, address: int) -> int:
    """Return the byte address, in a set of the shell's, of the word at an address of the unit."""
    assert shell.map is not None
    assert shell.unit.registers is not None
    inner, word = divmod(address, shell.unit.registers.stride)
    return shell.map.base + (of_set + inner) * shell.map.stride + WORD * word


def _with_one_length(rows: Rows, length: int, before: int) -> Rows:
    """Return rows of one length with the causal mask of `_set_parameters`, after `before` rows."""
    codes = _extended(rows.codes, length)[:, :length]
    of_block = (before + np.arange(len(codes))) % length
    return Rows(codes, np.arange(length) < of_block[:, None] + 2, np.full(len(codes), length))


def _with_too_long_row(rows: Rows, unit: SoftmaxUnit) -> Rows:
    """Return the rows with the last one extended beyond `max_row`."""
    lengths = rows.lengths.copy()
    lengths[-1] = longest = unit.max_row + 2 * unit.lanes + 1
    mask = np.zeros((len(lengths), longest), np.bool_)
    mask[:, : rows.mask.shape[1]] = rows.mask
    mask[-1, rows.lengths[-1] :] = True
    return Rows(_extended(rows.codes, longest), mask, lengths)


def _extended(codes: Integers, length: int) -> Integers:
    """Return codes extended to at least `length` positions by repeating the last one."""
    return np.pad(codes, ((0, 0), (0, max(length - codes.shape[1], 0))), mode="edge")


def _beats(shell: Shell, vectors: Vectors, rows: Rows, kept: Booleans, golden: Integers, tags: Integers) -> None:
    """Append the input and expected output beats of rows."""
    unit, options = shell.unit, shell.options
    code_bytes, result_bytes = (whole_bytes(bits) // 8 for bits in (unit.code_shape.width, unit.result_bits))
    sent = _BeatLayout(rows.lengths, unit.lanes)
    received = _BeatLayout(np.minimum(rows.lengths, golden.shape[1]), unit.lanes)
    source = [(sent.beats(rows.codes) & ((1 << unit.code_shape.width) - 1), 8 * code_bytes)]
    sink = [(received.beats(golden), 8 * result_bytes)]
    if options.keep:
        source.append((np.repeat(sent.beats(kept), code_bytes, axis=1), 1))
        keep = received.beats(kept[:, : golden.shape[1]]) | (
            1 - received.last
        )  # all lanes are kept before the last beat
        sink.append((np.repeat(keep, result_bytes, axis=1), 1))
    if not options.row_length:
        source += [(sent.beats(rows.mask), 1), (sent.last, 1)]
    sink.append((received.last, 1))
    if options.tags:
        source.append((sent.of_rows(tags), options.tag_bits))
        sink.append((received.of_rows(tags), options.tag_bits))
    vectors.scores.append(pack(source))
    vectors.results.append(pack(sink))
    vectors.beats += len(sent.last)
    vectors.rows += len(rows.lengths)


class _BeatLayout:
    """Arrangement of rows in beats.

    Args:
        lengths: of the rows, int64 (rows,).
        lanes: positions per beat.

    Attributes:
        last: 1 for the last beat of a row, int64 (beats, 1).
    """

    def __init__(self, lengths: Integers, lanes: int) -> None:
        self.lanes, taken = lanes, -(-lengths // lanes)
        number = np.arange(taken.max())
        self.chosen = number < taken[:, None]
        self.last = (number == taken[:, None] - 1)[self.chosen][:, None].astype(np.int64)

    def beats(self, values: Integers | Booleans) -> Integers:
        """Return values per position, (rows, positions), as (beats, lanes); 0 beyond the last position."""
        width = self.chosen.shape[1] * self.lanes
        padded = np.zeros((len(values), width), np.int64)
        padded[:, : values.shape[1]] = values[:, :width]
        laid: Integers = padded.reshape(len(values), -1, self.lanes)[self.chosen]
        return laid

    def of_rows(self, values: Integers) -> Integers:
        """Return values per row, (rows,), as (beats, 1)."""
        laid: Integers = np.broadcast_to(values[:, None], self.chosen.shape)[self.chosen][:, None]
        return laid


def _final_reads(registers: RegisterMap, vectors: Vectors, cut: bool) -> None:
    """Read the registers whose final values are known: constants, `busy`, and the errors of truncated rows."""
    for register in registers.registers:
        word, at = 0, 0
        for register_field in register.fields:
            word, at = word | register_field.reset << at, at + register_field.bits
        if all(register_field.access in ("constant", "read", "clear ones") for register_field in register.fields):
            vectors.reads.append((register.address, word | (cut and register.name == "errors")))
