"""Stored results: measured once, read back, and separate for different inputs."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from softmaxkit.studies import resume
from softmaxkit.studies.resume import result_folder, resumed


def test_results_are_measured_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def measure() -> list[dict[str, Any]]:
        calls.append(1)
        return [{"loss_nats": 2.5}]

    assert resumed(tmp_path / "a", measure) == resumed(tmp_path / "a", measure) == [{"loss_nats": 2.5}]
    assert len(calls) == 1
    resumed(tmp_path / "b", measure)
    assert len(calls) == 2


def test_what_json_changes_is_the_same_both_times(tmp_path: Path) -> None:
    def measure() -> list[dict[str, Any]]:
        return [{"perplexity": math.inf, "shape": (2, 3), "by_bits": {4: 0.5}}]

    kept = [{"perplexity": None, "shape": [2, 3], "by_bits": {"4": 0.5}}]
    assert resumed(tmp_path, measure) == resumed(tmp_path, measure) == kept


def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / resume.RESULTS_FILE
    file.write_text('[{"loss_nats": 2')
    with pytest.raises(ValueError, match=rf"^{re.escape(str(file))} is damaged \(.*\); delete it"):
        resumed(tmp_path, list)


def test_divergence_is_stored_only_if_requested(tmp_path: Path) -> None:
    def measure() -> list[dict[str, Any]]:
        raise FloatingPointError("the loss is nan")

    with pytest.raises(FloatingPointError):
        resumed(tmp_path, measure)
    assert not list(tmp_path.iterdir())
    kept = [{"diverged": "the loss is nan"}]
    assert resumed(tmp_path, measure, lambda error: [{"diverged": str(error)}]) == kept
    assert resumed(tmp_path, measure) == kept


def test_a_folder_depends_on_all_inputs_and_on_the_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = result_folder(tmp_path, "exact", {"seed": 0}, "text")
    assert folder.parent == tmp_path
    assert folder.name.startswith("exact-")
    assert folder == result_folder(tmp_path, "exact", {"seed": 0}, "text")
    assert folder != result_folder(tmp_path, "exact", {"seed": 1}, "text")
    assert folder != result_folder(tmp_path, "exact", {"seed": 0}, "text", True)
    monkeypatch.setattr(resume, "versions", lambda: {"softmaxkit": "other"})
    assert folder != result_folder(tmp_path, "exact", {"seed": 0}, "text")
