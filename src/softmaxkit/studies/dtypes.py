"""The dtypes that the benchmark measures; imports nothing heavy, so that `--help` stays fast."""

from __future__ import annotations

from enum import StrEnum


class Dtype(StrEnum):
    """A dtype of the inputs; the methods' integer mode and torch's float32 attention have float32 in any case."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


DTYPES = Dtype.FLOAT32.value, Dtype.BFLOAT16.value
"""Those measured by default, and in whole models."""


def torch_dtypes(dtype: str) -> tuple[str, ...]:
    """Return the dtypes in which torch's attention runs beside methods in a dtype: `DTYPES`, and that one."""
    return tuple(dict.fromkeys((*DTYPES, dtype)))
