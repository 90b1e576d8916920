"""The `compare` command at its default budget on real text: what docs/accuracy.md reports of every method."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_method_stays_close_to_exact_softmax_at_the_default_budget(shakespeare: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "softmaxkit", "compare", "--text", str(shakespeare), "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "compare.json").read_text())
    loss = {(r["method"], r["variant"], r["mode"]): r["loss_nats"] for r in record["results"]}
    exact = loss["exact", "", "integer"]
    assert exact < 2.0
    assert loss["softermax", "", "integer"] < 1.015 * exact
    assert loss["exaq", "3 bits, searched clip", "integer"] < 1.015 * exact
    assert loss["exaq", "3 bits, naive clip", "integer"] > loss["exaq", "3 bits, searched clip", "integer"]
    assert loss["consmax", "", "integer"] < 1.045 * exact
    assert abs(loss["consmax", "", "integer"] / loss["consmax", "", "float"] - 1) < 0.005
