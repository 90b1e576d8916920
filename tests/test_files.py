from __future__ import annotations

import json
from pathlib import Path

import pytest

from softmaxkit.files import whole_folder, write_json, write_text


def test_text_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_figures_that_are_not_finite_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [float("nan"), float("inf"), 1.5], "b": (1, None)})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [None, None, 1.5], "b": [1, None]}


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with whole_folder(target) as folder:
        (folder / "a").write_text("1")

    def fail() -> None:
        with whole_folder(target) as folder:
            (folder / "b").write_text("2")
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert [entry.name for entry in target.iterdir()] == ["a"]
    with whole_folder(target) as folder:
        (folder / "c").write_text("3")
    assert [entry.name for entry in target.iterdir()] == ["c"]
    assert list(tmp_path.iterdir()) == [target]
