"""AXI4-Stream beats for the test bench of a shell: inputs, and the outputs expected from golden and the shell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from softmaxkit.flow.vectors import Rows
from softmaxkit.shell.accesses import Ports, Software, When, Write
from softmaxkit.shell.beat_layout import BeatLayout, beat_counts
from softmaxkit.shell.register_map import WORD
from softmaxkit.shell.row_length import LENGTH_PORTS
from softmaxkit.shell.status import score_ends

if TYPE_CHECKING:
    from softmaxkit.flow.vectors import Booleans, Integers, Packed, Segments
    from softmaxkit.methods.base.constants import Constants, Sets
    from softmaxkit.shell.shell import Shell


SEED, HOLES, MANY_HOLES = 1, 1 / 16, 1 / 2
"""Random seed and fractions of the positions that are not kept, the second in short rows."""

SHORT = 96
"""Number of short rows after the rows of a segment; enough of them fill whatever counts rows."""

LONGEST_RUN = 16
"""Most rows in succession with the same tag."""

PROBES = 24
"""Number of accesses without effect while the rows of a segment are sent."""

LOADING = 0b10
"""The register `state` while no row is inside and some of the written constants are not in use."""

LAST_OF_GROUP = 1 << 31
"""Flag in the address of a write to `s_axis_cfg` that ends its group."""


class Vectors:
    """The stimuli of a test bench and its expected responses.

    With `tkeep`, some positions are not kept. After the rows of a segment come short ones and, if the shell truncates
    long rows, one that is too long. With row lengths as a parameter, all rows have one length and form causal blocks;
    the short rows have several lengths, among them 0. Rows with the same tag come in runs; if tags select constants,
    the tags get those of the segments in turn.

    Args:
        shell: whose test bench it is.
        segments: sets of constants, each with its rows.

    Attributes:
        scores, results: input and expected output beats, packed.
        software: accesses through AXI4-Lite; None without it.
        ports: steps of the ports for status and parameters; None if there are none.
        words: writes to `s_axis_cfg`.
    """

    def __init__(self, shell: Shell, segments: Segments) -> None:
        self.shell, self.unit, self.options = shell, shell.unit, shell.options
        self.random = np.random.default_rng(SEED)
        self.scores: list[Packed] = []
        self.results: list[Packed] = []
        self.words: list[Write] = []
        self.software = Software(shell.map, self.random) if shell.map is not None else None
        ports = self.options.status or self.options.row_length
        self.ports = Ports(self.options) if ports and self.software is None else None
        self._beats, self._received, self._tag = 0, 0, 0
        self._row_of_block, self._numbers = 0, dict.fromkeys(LENGTH_PORTS, 0)
        self._restarts_in = -1  # number of the row in which a block is restarted, for the next row
        self._cuts = self.unit.holds_rows and (self.options.status or self.options.row_length)
        several = shell.map is not None and shell.map.sets > 1 and self.unit.sets == 1
        sets = list(dict.fromkeys(constants for constants, _ in segments))
        self._check_status()
        for number, (constants, rows) in enumerate(segments):
            of_tags = [sets[(tag + number) % len(sets)] for tag in range(self.options.tags)] if several else [constants]
            self._segment(of_tags, rows)
        self._check_status()
        if self.software is not None:
            self.software.read_constants()

    @property
    def control(self) -> Software | Ports | None:
        """What sets parameters and checks the status."""
        return self.software or self.ports

    def _segment(self, of_tags: Sequence[Constants | Sets], rows: Rows) -> None:
        """Append the rows of a segment, and further rows, with the constants of all rows or those of each tag."""
        if self.unit.registers is not None:
            self._constants(of_tags)
        if self.options.row_length:
            length = max(self.unit.max_row - 1, 1)
            self._set_length(length, causal_offset=1, block_rows=length)
            self._rows(self._with_length(rows.codes), of_tags, HOLES)
        else:
            self._rows(rows, of_tags, HOLES)
        if self.unit.registers is not None:
            self._constants(of_tags, first=1)
        self._check_status()
        codes = rows.codes[rows.real]
        if self.options.row_length:
            self._short_rows_by_number(codes, of_tags)
        else:
            self._rows(self._short_rows(codes), of_tags, MANY_HOLES)

    def _constants(self, of_tags: Sequence[Constants | Sets], first: int | None = None) -> None:
        """Write sets of constants, or some words of each, in any order, before the next beat."""
        shell = self.shell
        for of_set, constants in enumerate(of_tags):
            words = self.unit.writes(constants)
            words = [words[place] for place in self.random.permutation(len(words))[:first]]
            if self.software is None:
                closing = [0] * (len(words) - 1) + [LAST_OF_GROUP]
                when = When(self._beats, 0)
                self.words += [Write(when, a | last, 0, w) for (a, w), last in zip(words, closing, strict=True)]
                continue
            for number, (address, word) in enumerate(words):
                self.software.write(_address(shell, of_set, address), word)
                if self.random.random() < 1 / 4:
                    self.software.write_in_vain()
                if not self.options.has_copy(self.unit) and number % 8 == 7:
                    self.software.words["state"] = LOADING  # the last word waits for what follows
                    self.software.check()
        if self.software is not None:
            self.software.write(self.software.address("constants"), 1)

    def _set_length(self, length: int, causal_offset: int, block_rows: int, causal: int = 1, restart: int = 0) -> None:
        """Set the parameters of the following rows."""
        assert self.control is not None
        numbers = {"row_length": length, "causal": causal, "causal_offset": causal_offset, "block_rows": block_rows}
        for name, value in numbers.items():
            self.control.set_number(name, value)
        if restart:
            self.control.set_number("block_restart", 1)
            self._row_of_block = 0
        self._numbers = numbers

    def _with_length(self, codes: Integers) -> Rows:
        """Return rows with these codes and the parameters that are set."""
        length, block = self._numbers["row_length"], self._numbers["block_rows"]
        width = max(length, 1)
        codes = np.pad(codes, ((0, 0), (0, max(width - codes.shape[1], 0))), mode="edge")[:, :width]
        of_block = np.zeros(len(codes), np.int64)
        several_beats = self.unit.lanes < min(length, self.unit.max_row)
        self._restarts_in = len(codes) // 2 if several_beats and len(codes) > 1 else -1
        for row in range(len(codes)):
            of_block[row] = self._row_of_block
            restarts = row == self._restarts_in or self._row_of_block + 1 == block
            self._row_of_block = 0 if restarts else self._row_of_block + 1
        mask = np.arange(width) < of_block[:, None] + self._numbers["causal_offset"] + 1
        return Rows(codes, mask | (not self._numbers["causal"]), np.full(len(codes), length))

    def _short_rows(self, codes: Integers) -> Rows:
        """Return rows mostly of one position, a few of them longer, and one that is too long."""
        lanes, longest = self.unit.lanes, self.unit.max_row
        lengths = np.where(self.random.random(SHORT) < 3 / 4, 1, self.random.integers(1, 2 * lanes + 2, SHORT))
        lengths = np.minimum(lengths, longest)
        if self._cuts:
            lengths[SHORT // 4], lengths[SHORT // 2] = longest + 1, longest + 2 * lanes + 1
        shape = (SHORT, int(lengths.max()))
        mask = (np.arange(shape[1]) < lengths[:, None]) & (self.random.random(shape) < 3 / 4)
        mask[:, longest:] = np.arange(longest, shape[1]) < lengths[:, None]
        return Rows(self.random.choice(codes, shape), mask, lengths)

    def _short_rows_by_number(self, codes: Integers, of_tags: Sequence[Constants | Sets]) -> None:
        """Append rows of several lengths, with all kinds of causal masks and blocks."""
        lanes, longest = self.unit.lanes, self.unit.max_row
        lengths = [1, 2 * lanes + 1, lanes, longest // 3, longest, 2 * longest // 3, longest, 1]
        lengths += [longest + 2 * lanes + 1] * self._cuts + [0, lanes + 1]
        for number, length in enumerate(lengths):
            count = SHORT // 2 if length <= 1 else 3
            offset = (0, -3, lanes, length // 2)[number % 4] if length > 1 else 0
            block = (0, 3, count)[number % 3]
            self._set_length(length, offset, block, causal=int(number % 5 != 4), restart=number % 2)
            self._rows(self._with_length(self.random.choice(codes, (count, max(length, 1)))), of_tags, MANY_HOLES)

    def _rows(self, rows: Rows, of_tags: Sequence[Constants | Sets], holes: float) -> None:
        """Append rows with the results of golden, and accesses without effect meanwhile."""
        unit, options = self.unit, self.options
        count = len(rows.lengths)
        kept = rows.real & ((self.random.random(rows.real.shape) > holes) | (not options.keep))
        tags = np.zeros(count, np.int64)
        if options.tags:
            runs = self.random.integers(1, LONGEST_RUN, count, endpoint=True)
            of_runs = self.random.integers(0, 1 << options.tag_bits, count)
            of_runs[0] = self._tag  # constants are loaded again even if the tag is the last one
            tags = np.repeat(of_runs, runs)[:count]
            self._tag = int(tags[-1])
        sets = np.where(tags < unit.sets, tags, 0) if unit.sets > 1 else None
        rows = Rows(rows.codes, rows.mask, rows.lengths, sets)
        fits = slice(unit.max_row if unit.holds_rows else None)
        codes, mask = np.where(kept, rows.codes, 0)[:, fits], (rows.mask & kept)[:, fits]
        golden: Integers = np.zeros(codes.shape, np.int64)
        for tag, constants in enumerate(of_tags):
            some = np.where(tags < len(of_tags), tags, 0) == tag if len(of_tags) > 1 else np.full(count, True)
            golden[some] = unit.golden(codes[some], mask[some], constants, rows.taken(some).sets)
        self._status(rows, kept if options.keep else rows.mask, codes, mask, golden)
        sent = BeatLayout(rows.lengths, unit.lanes)
        received = BeatLayout(np.minimum(rows.lengths, golden.shape[1]), unit.lanes)
        self.scores.append(sent.scores(self.shell, rows, kept, tags, self.random))
        self.results.append(received.results(self.shell, golden, kept, tags))
        self._accesses(sent, received)
        self._beats += len(sent.last)
        self._received += len(received.last)

    def _status(self, rows: Rows, kept: Booleans, codes: Integers, mask: Booleans, golden: Integers) -> None:
        """Change the expected status by rows: what they hold, and the codes, mask and results of what fits."""
        unit = self.unit
        if self.control is None or not self.options.status:
            return
        most = -(-unit.max_row // unit.lanes)
        too_long = (beat_counts(rows.lengths, unit.lanes) > most) | kept[:, unit.max_row :].any(axis=1)
        at_end = np.isin(codes & ((1 << unit.code_shape.width) - 1), score_ends(unit)) & mask
        words = self.control.words
        words["errors"] |= int(self._cuts and too_long.any()) | 2 * int((rows.lengths == 0).any())
        words["saturated_scores"] += int(at_end.sum())
        words["saturated_results"] += int((golden == (1 << unit.result_bits) - 1).sum())

    def _accesses(self, sent: BeatLayout, received: BeatLayout) -> None:
        """Access what changes no row and what no row changes while beats are sent, and once the status within a row."""
        control = self.control
        if control is None:
            return
        beats_sent, given = sent.chosen.sum(axis=1), received.chosen.sum(axis=1)
        row = self._restarts_in if self._restarts_in >= 0 else int(given.argmax())
        # Before the last beat that fits: behind it, a row may have left although more of it comes.
        busy = int(beats_sent[:row].sum() + given[row] - 1) if given[row] > 1 else 0
        probes = self.random.integers(0, beats_sent.sum(), PROBES)
        for beats in np.sort(np.append(probes, busy)):
            if beats == busy and busy:
                control.at = (self._beats + busy, self._received + int(given[:row].sum()))
                control.check_busy()
                if self._restarts_in >= 0:
                    self._within_a_row()
                busy = 0
            elif self.software is not None:
                control.at = (self._beats + int(beats), 0)
                steady = self.random.random() < 3 / 4
                (self.software.read_steady if steady else self.software.write_in_vain)()
        control.at = (self._beats + int(beats_sent.sum()), self._received + int(given.sum()))

    def _within_a_row(self) -> None:
        """Change the parameters of rows to and fro, which changes nothing within a row, and restart the block."""
        assert self.control is not None
        for name, value in self._numbers.items():
            self.control.set_number(name, value ^ 5)
        for name, value in self._numbers.items():
            self.control.set_number(name, value)
        self.control.set_number("block_restart", 1)

    def _check_status(self) -> None:
        """Compare the status once all results have come, with all interrupts, and as errors and counts are cleared."""
        control = self.control
        if control is None:
            return
        control.words |= {name: 0 for name in ("state", "busy") if name in control.words}
        control.check()
        if self.options.status:
            for enabled in (1, 2, 0, 3):
                control.set_number("interrupt_enable", enabled)
                control.check()
            for name, bits in (("errors", 2), ("errors", 1), ("saturated_scores", 1), ("saturated_results", 1)):
                control.clear(name, bits)
                control.check()


def _address(shell: Shell, of_set: int, address: int) -> int:
    """Return the byte address, in a set of the shell's, of the word at an address of the unit."""
    assert shell.map is not None
    assert shell.unit.registers is not None
    inner, word = divmod(address, shell.unit.registers.stride)
    return shell.map.base + (of_set + inner) * shell.map.stride + WORD * word
