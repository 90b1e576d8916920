"""Golden's integers on GPUs: rows as the kernels read them, tables on the device, and the code-table kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from softmaxkit.formats import Rounding
from softmaxkit.kernels.integers import CodeTableCall
from softmaxkit.kernels.triton.code_table import code_table_rows
from softmaxkit.kernels.triton.launch import on_device_of, tables_of
from softmaxkit.kernels.triton.rows import Rows, empty, rows_of
from softmaxkit.tables import GUARD_BITS, Reciprocal

TILE = 512
"""Scores that a program processes at a time; few, because 64-bit numbers take more registers."""
UNSEEN = -(1 << 24)
"""Code of keys that are not attended, below all other codes and every difference of two codes."""


def integer_rows(scores: Tensor, mask: Tensor | None, columns: int = TILE) -> tuple[Rows, Tensor]:
    """Return scores as the integer kernels read them, at most `columns` at a time, and memory for the result."""
    rows = rows_of(scores, mask, False)
    columns = min(triton.next_power_of_2(max(columns, 1)), rows.constants["COLUMNS"], TILE)
    block = {"ROWS": max(1, min(64, TILE // columns)), "COLUMNS": columns, "num_warps": 4}
    return rows._replace(constants={**rows.constants, **block}), empty(scores)


def numbers_on(device: torch.device, numbers: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Return numbers as a tensor on a device: as kernel arguments, floats would be 32 bits."""
    return torch.tensor(numbers, dtype=dtype, device=device)


def reciprocal_constants(reciprocal: Reciprocal, rounding: Rounding = "nearest") -> dict[str, Any]:
    """Return the compile-time constants of `integer_arithmetic.reciprocal`."""
    table = reciprocal.table
    return {
        "INPUT_BITS": table.input_bits,
        "REST_BITS": table.rest_bits,
        "GUARD_BITS": GUARD_BITS,
        "NEAREST": rounding == "nearest",
    }


def reciprocal_tables(device: torch.device, reciprocal: Reciprocal) -> Sequence[Tensor]:
    """Return the offsets and slopes of a reciprocal on a device."""
    table = reciprocal.table
    return [numbers_on(device, numbers, torch.int64) for numbers in (table.offsets, table.slopes)]


def run_code_table(call: CodeTableCall, scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return the decoded probabilities of a `CodeTableCall`."""
    rows, result = integer_rows(scores, mask)
    if result.numel():
        device = scores.device
        scales, table = tables_of(
            call, device, lambda: (numbers_on(device, call.scales, torch.float64), call.probabilities.to(device))
        )
        codes = table.shape[-1]
        with on_device_of(scores):
            code_table_rows[rows.grid_of_tiles](
                *(rows.scores, rows.mask, result, scales, table, *rows.sizes, *rows.strides),
                *(int(len(scales) > 1), codes if table.numel() > codes else 0),
                LOWEST=call.lowest,
                HIGHEST=call.highest,
                **rows.constants,
            )
    return result
