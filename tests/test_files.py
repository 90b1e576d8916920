from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from softmaxkit.files import cache_folder, whole_folder, write_bytes, write_json, write_text


def test_text_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.bin"
    write_bytes(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_are_those_of_before_or_of_the_umask(umask: int, tmp_path: Path) -> None:
    private, folder = tmp_path / "private", tmp_path / "folder"
    write_text(private, "old")
    private.chmod(0o600)
    with whole_folder(folder):
        pass
    folder.chmod(0o700)
    before = os.umask(umask)
    try:
        for name in ("private", "new"):
            write_text(tmp_path / name, "text")
        for name in ("folder", "new folder"):
            with whole_folder(tmp_path / name):
                pass
    finally:
        os.umask(before)
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()}
    assert modes == {"private": 0o600, "new": 0o666 & ~umask, "folder": 0o700, "new folder": 0o777 & ~umask}


def test_a_link_still_points_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    path, link = tmp_path / "there" / "file", tmp_path / "link"
    link.symlink_to(path)
    for text in ("one", "two"):  # at first the link dangles
        write_text(link, text)
        assert link.is_symlink()
        assert path.read_text() == text
    assert [*path.parent.iterdir()] == [path]


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


def test_the_cache_follows_its_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    places = {
        "here/my cache": tmp_path / "here" / "my cache",
        "~/my cache": tmp_path / "home" / "my cache",
        str(tmp_path / "there"): tmp_path / "there",
        "": tmp_path / "home" / ".cache" / "softmaxkit",
    }
    for given, meant in places.items():
        monkeypatch.setenv("SOFTMAXKIT_CACHE", given)
        assert cache_folder() == meant
        assert meant.is_dir()
    monkeypatch.setenv("SOFTMAXKIT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "softmaxkit"


def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SOFTMAXKIT_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match="set SOFTMAXKIT_CACHE to a folder that can") as error:
        cache_folder()
    assert error.value.filename == str(tmp_path / "file" / ".cache" / "softmaxkit")
    monkeypatch.setenv("SOFTMAXKIT_CACHE", str(tmp_path / "ours"))
    assert cache_folder() == tmp_path / "ours"
