"""Describe the processor on which speed is measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

INSTRUCTIONS = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_vbmi", "avx512_vbmi2", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
"""Linux's names of the x86 and ARM instruction sets that affect the speed of softmax and attention, torch's too."""


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Return the `processor` of a record: its name, which of `INSTRUCTIONS` it has, and its number of cores."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = values.get("flags", values.get("Features", "")).replace("avx512vbmi", "avx512_vbmi").split()
    return {
        "name": values.get("model name") or platform.processor() or platform.machine(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "cores": os.cpu_count() or 1,
    }
