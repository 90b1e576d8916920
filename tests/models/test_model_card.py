"""The section of a model's card about its method, and pushing to the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from saved_models import patched
from transformers import PreTrainedModel

import softmaxkit
from softmaxkit import Exaq, Softermax
from softmaxkit.models.attention import NAME
from softmaxkit.models.card import BEGIN, write_card


def test_the_card_says_which_method_and_how_to_load_it(tmp_path: Path) -> None:
    model = patched("gpt2", Exaq(bits=3), "integer")
    softmaxkit.apply(model, Softermax(), layers=[1])
    model.save_pretrained(tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\ntags:\n- softmaxkit\n---\n")
    assert 'transformer.h.0.attn: EXAQ, mode "integer"' in card
    assert '"bits": 3' in card
    assert "softmaxkit.load('mine')" in card
    # The user's own card is kept, and the section is replaced.
    (tmp_path / "mine" / "README.md").write_text(f"# My model\n\nWords.\n\n{card[card.index(BEGIN) :]}")
    softmaxkit.apply(model, Softermax())
    softmaxkit.save(model, tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text()
    assert card.startswith("# My model\n\nWords.\n\n<!--")
    assert card.count(BEGIN) == 1
    assert "EXAQ" not in card
    softmaxkit.save(softmaxkit.restore(model), tmp_path / "mine")
    assert (tmp_path / "mine" / "README.md").read_text() == "# My model\n\nWords.\n\n"
    write_card(tmp_path / "mine", model, "mine")
    (tmp_path / "mine" / "README.md").unlink()
    softmaxkit.save(model, tmp_path / "mine")
    assert not (tmp_path / "mine" / "README.md").exists()


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
def test_a_pushed_model_has_the_method_and_its_section_of_the_card(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that records the upload replaces the hub."""
    pushed: dict[str, str] = {}

    class Hub:
        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Repo", (), {"repo_id": f"someone/{Path(repo_id).name}"})()

    class Card:
        def save(self, path: str) -> None:
            Path(path).write_text("# The hub's own card\n")

    def upload(_: Any, folder: str, repo_id: str, *__: Any, **___: Any) -> None:
        files = {path.name: path.read_text() for path in Path(folder).iterdir() if path.suffix in (".md", ".json")}
        pushed.update(files, repo_id=repo_id)

    for place in ("transformers.utils.hub", "transformers.modeling_utils"):
        monkeypatch.setattr(f"{place}.hf_api", Hub)
        monkeypatch.setattr(f"{place}.create_and_tag_model_card", lambda *_, **__: Card())
    wrapped = PreTrainedModel.__dict__["_upload_modified_files"]
    original = wrapped.__closure__[wrapped.__code__.co_freevars.index("original")]
    monkeypatch.setattr(original, "cell_contents", upload)
    model = patched("gpt2", Softermax())
    if way == "push_to_hub":
        model.push_to_hub("mine")
    else:
        model.save_pretrained(tmp_path / "mine", push_to_hub=True)
    assert pushed["repo_id"] == "someone/mine"
    assert pushed["README.md"].startswith("# The hub's own card\n\n<!-- softmaxkit")
    assert "softmaxkit.load('someone/mine')" in pushed["README.md"]
    assert json.loads(pushed["config.json"])["quantization_config"]["quant_method"] == NAME
