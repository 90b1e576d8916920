"""Test rows for units: all lengths; scores close together, far apart, tied, at the ends of the range; all masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from softmaxkit.flow.vectors import Rows
from softmaxkit.methods.base.constants import Constants, Sets

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxkit.methods.base.unit import SoftmaxUnit

KINDS = ("scores", "codes", "ties", "ends", "equal", "rising", "falling")
MASKS = ("none", "random", "sparse", "all", "one", "blocks")
SPREADS = (0.3, 1.0, 2.0, 4.0, 10.0)


def code_range(unit: SoftmaxUnit, constants: Constants | Sets) -> tuple[int, int]:
    """Return the smallest and the largest score code of a position."""
    bits = unit.code_shape.width // unit.positions_a_lane(constants)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if unit.code_shape.signed else (0, (1 << bits) - 1)


def random_rows(unit: SoftmaxUnit, constants: Constants | Sets, results: int, random: np.random.Generator) -> Rows:
    """Return rows of every kind, length and mask, with about `results` results in total.

    If the constants are `Sets`, each row has a random one of them.
    """
    lanes, longest = unit.lanes, unit.max_row
    special = [n for n in (1, 2, lanes - 1, lanes, lanes + 1, longest - 1, longest) if 1 <= n <= longest]
    count = max(len(special), 2 * results // (longest + 1))
    lengths = random.integers(1, longest, count, endpoint=True)
    lengths[: len(special)] = special
    random.shuffle(lengths)
    shape = (count, int(lengths.max()))
    sets = random.integers(0, len(constants.heads), count) if isinstance(constants, Sets) else None
    kind = random.integers(0, len(KINDS), (count, 1))
    codes = np.select([kind == i for i in range(len(KINDS))], _codes(unit, constants, shape, random, sets))
    which = random.integers(0, len(MASKS), (count, 1))
    mask = np.select([which == i for i in range(len(MASKS))], _masks(shape, random), default=False)
    return Rows(codes, mask & (np.arange(shape[1]) < lengths[:, None]), lengths, sets)


def all_codes(unit: SoftmaxUnit, constants: Constants | Sets) -> Rows | None:
    """Return unmasked rows of two scores with every pair of codes or, if there are more than 256, at least every code.

    If the constants are `Sets`, every pair occurs with each of them. None if the unit's rows are too short, or if there
    are more than 65,536 codes.
    """
    low, high = code_range(unit, constants)
    count = high - low + 1
    if count > 1 << 16 or unit.max_row < 2:
        return None
    codes = np.arange(low, high + 1)
    if count <= 256:
        pairs = np.stack(np.meshgrid(codes, codes, indexing="ij"), axis=-1).reshape(-1, 2)
    else:
        others = np.asarray([low, high, *(codes[len(codes) * i // 8] for i in range(1, 8))])
        pairs = np.stack((np.tile(codes, len(others)), np.repeat(others, count)), axis=-1)
    sets = None
    if isinstance(constants, Sets):  # each pair once per set, in consecutive rows
        sets = np.tile(np.arange(len(constants.heads)), len(pairs))
        pairs = np.repeat(pairs, len(constants.heads), axis=0)
    return Rows(pairs, np.ones(pairs.shape, np.bool_), np.full(len(pairs), 2), sets)


def near_rows(unit: SoftmaxUnit, constants: Constants | Sets, maxima: int, random: np.random.Generator) -> Rows:
    """Return short unmasked rows of scores near their maximum, where results differ most, for maxima over all codes.

    A row has up to eight beats: the maximum in every lane, then scores up to 7, 15, 31 or 63 codes below it. So with
    256 maxima every lane receives every code of 8 bits.
    """
    low, high = code_range(unit, constants)
    tops = np.linspace(low, high, maxima).round().astype(np.int64)[:, None]
    beat = unit.lanes * unit.positions_a_lane(constants)
    length = min(8 * beat, unit.max_row)
    below = random.integers(0, random.choice((8, 16, 32, 64), (maxima, 1)), (maxima, length))
    below[:, :beat] = 0
    codes = np.maximum(tops - below, low)
    sets = random.integers(0, len(constants.heads), maxima) if isinstance(constants, Sets) else None
    return Rows(codes, np.ones(codes.shape, np.bool_), np.full(maxima, length), sets)


def _codes(
    unit: SoftmaxUnit,
    constants: Constants | Sets,
    shape: tuple[int, int],
    random: np.random.Generator,
    sets: NDArray[np.int64] | None,
) -> list[NDArray[np.int64]]:
    """Return codes of each kind, in the order of `KINDS`."""
    low, high = code_range(unit, constants)
    spread = random.choice(SPREADS, (shape[0], 1))
    real = spread * random.standard_normal(shape)
    if isinstance(constants, Sets):
        encoded = [np.asarray(unit.spec.encode(real, head), np.int64) for head in constants.heads]
        scores = np.stack(encoded)[sets, np.arange(shape[0])]
    elif unit.positions_a_lane(constants) == 1:
        scores = np.asarray(unit.spec.encode(real, constants), np.int64)
    else:
        scores = np.clip(np.round(16 * real), low, high).astype(np.int64)
    codes = random.integers(low, high, shape, endpoint=True)
    few = random.choice(codes[:, :3] if shape[1] >= 3 else codes, shape[1], axis=1)
    ends = random.choice(np.asarray([low, high, low + 1, high - 1, 0, 1]), shape)
    equal = np.broadcast_to(codes[:, :1], shape)
    rising = np.sort(scores, axis=1)
    return [scores, codes, few, ends, equal, rising, rising[:, ::-1]]


def _masks(shape: tuple[int, int], random: np.random.Generator) -> list[NDArray[np.bool_]]:
    """Return masks of each kind, in the order of `MASKS`."""
    ones = np.ones(shape, np.bool_)
    dense, sparse = random.random(shape) < random.uniform(0.2, 0.95, (shape[0], 1)), random.random(shape) < 0.1
    one = np.arange(shape[1]) == random.integers(0, shape[1], (shape[0], 1))
    blocks = np.repeat(random.random((shape[0], -(-shape[1] // 8))) < 0.5, 8, axis=1)[:, : shape[1]]
    return [ones, dense, sparse, ~ones, one, blocks]
