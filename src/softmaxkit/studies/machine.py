"""Describe the processor on which speed is measured."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

INSTRUCTIONS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_vbmi", "avx512_vbmi2", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
"""Linux's names of the x86 and ARM instruction sets that affect the speed of softmax and attention, torch's too."""


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Return the `processor` of a record: its name, which of `INSTRUCTIONS` it has, and its number of cores."""
    values = _values(cpuinfo.read_text(encoding="utf-8")) if cpuinfo.is_file() else {}
    flags = values.get("flags", values.get("Features", "")).replace("avx512vbmi", "avx512_vbmi").split()
    return {
        "name": values.get("model name") or _name_by_lscpu() or platform.processor() or platform.machine(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "cores": os.cpu_count() or 1,
    }


def _name_by_lscpu() -> str:
    """Return the name that lscpu knows, at least the maker's, if any.

    On Arm, /proc/cpuinfo has the numbers of maker and part alone.
    """
    lscpu = shutil.which("lscpu")
    if lscpu is None:
        return ""
    printed = subprocess.run([lscpu], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
    values = _values(printed)
    name = values.get("Model name", "-")
    return name if name != "-" else values.get("Vendor ID", "")


def _values(text: str) -> dict[str, str]:
    """Return the values of lines such as "key : value"."""
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
