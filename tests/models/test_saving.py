"""transformers' own `save_pretrained` and `from_pretrained` preserve the method."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from saved_models import TOKENS, logits, patched
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

import softmaxkit
from conftest import tiny_model
from softmaxkit import ConSmax, Exact, Exaq, Softermax, Spec
from softmaxkit.models.attention import NAME
from softmaxkit.models.hooks import install
from softmaxkit.models.patch import layers


def every_method_in_every_mode() -> Iterator[Any]:
    """Yield them; the fast tests have all methods in integers, and one in all modes."""
    for spec, mode in product((Exact(), ConSmax(), Softermax(), Exaq(bits=3)), ("float", "integer", "fused")):
        marks = [] if mode == "integer" or spec == ConSmax() else pytest.mark.slow
        yield pytest.param(spec, mode, id=f"{spec.method}-{mode}", marks=marks)


@pytest.mark.parametrize(("spec", "mode"), every_method_in_every_mode())
def test_transformers_saves_and_loads_the_method(spec: Spec, mode: str, tmp_path: Path) -> None:
    model = patched("gpt2", spec, mode)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(model))
    for name, module in layers(model).items():
        assert layers(again)[name].spec == spec
        assert layers(again)[name].mode == mode
        assert layers(again)[name].constants == module.constants
        assert layers(again)[name].calibration == module.calibration
    # transformers does not treat it as quantised, so it can be trained and saved.
    assert not hasattr(again.config, "quantization_config")
    assert not again.is_quantized
    assert not hasattr(model.config, "quantization_config")
    again.save_pretrained(tmp_path / "second")
    assert torch.equal(logits(softmaxkit.load(tmp_path / "second")), logits(model))
    assert softmaxkit.restore(again).config._attn_implementation == "sdpa"


def test_bfloat16_models_keep_learned_parameters_in_float32(tmp_path: Path) -> None:
    model = softmaxkit.apply(tiny_model("gpt2").bfloat16(), ConSmax(), beta=1.2345678)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16
    beta = next(iter(layers(again).values())).get_parameter("beta")
    assert beta.dtype == torch.float32
    assert torch.equal(beta, torch.full_like(beta, 1.2345678))
    assert torch.equal(logits(again), logits(model))


def test_a_checkpoint_with_a_head_loads_without_one_and_vice_versa(tmp_path: Path) -> None:
    model = patched("gpt2", ConSmax())
    model.save_pretrained(tmp_path / "head")
    assert torch.equal(logits(AutoModel.from_pretrained(tmp_path / "head")), logits(model.transformer))
    model.transformer.save_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", pad_token_id=0)
    assert list(layers(classifier)) == [f"transformer.h.{i}.attn" for i in (0, 1)]
    assert torch.equal(logits(classifier.transformer), logits(model.transformer))


def test_a_method_in_a_submodel_is_saved_with_the_whole_model(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    softmaxkit.apply(model.transformer, Softermax(), layers=[1])
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert list(layers(again)) == ["transformer.h.1.attn"]
    assert torch.equal(logits(again), logits(model))


def test_copies_and_pickles_of_a_model_save_their_own_method(tmp_path: Path) -> None:
    model = patched("gpt2", Exaq(bits=2), "integer")
    for number, other in enumerate((copy.deepcopy(model), pickle.loads(pickle.dumps(model)))):
        softmaxkit.restore(other)
        softmaxkit.apply(other, Softermax())
        other.save_pretrained(tmp_path / str(number))
        assert torch.equal(logits(softmaxkit.load(tmp_path / str(number))), logits(other))
    model.save_pretrained(tmp_path / "model")
    assert torch.equal(logits(softmaxkit.load(tmp_path / "model")), logits(model))


def test_models_without_a_method_are_saved_as_before(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    model.save_pretrained(tmp_path / "before")
    softmaxkit.restore(softmaxkit.apply(model, ConSmax())).save_pretrained(tmp_path / "after")
    install()  # a second call changes nothing
    files = {path.name: path.read_bytes() for path in (tmp_path / "before").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "after").iterdir()} == files


def test_without_softmaxkit_a_checkpoint_is_refused_and_not_silently_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = patched("gpt2", Softermax())
    model.save_pretrained(tmp_path)
    monkeypatch.delitem(AttentionInterface._global_mapping, NAME)
    monkeypatch.delitem(AUTO_QUANTIZATION_CONFIG_MAPPING, NAME)
    monkeypatch.delitem(AUTO_QUANTIZER_MAPPING, NAME)
    with pytest.raises(ValueError, match='`attn_implementation="softmaxkit"` is not supported'):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    exact = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.equal(logits(exact), logits(softmaxkit.restore(model)))


@pytest.mark.slow
def test_a_process_without_softmaxkit_refuses(tmp_path: Path) -> None:
    patched("gpt2", Softermax()).save_pretrained(tmp_path)
    code = f"from transformers import AutoModelForCausalLM as A; A.from_pretrained({str(tmp_path)!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert 'Specified `attn_implementation="softmaxkit"` is not supported' in run.stderr
    loaded = subprocess.run([sys.executable, "-c", f"import softmaxkit.models; {code}"], check=False)
    assert loaded.returncode == 0


def test_another_attention_function_requested_at_loading_causes_a_warning(tmp_path: Path) -> None:
    model = patched("gpt2", Softermax())
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="'eager' runs exact softmax instead of this checkpoint's method"):
        exact = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    exact.set_attn_implementation(NAME)
    assert torch.equal(logits(exact), logits(model))
    assert softmaxkit.restore(exact).config._attn_implementation == "eager"


def test_saving_is_refused_while_the_method_is_off(tmp_path: Path) -> None:
    model = patched("gpt2", Softermax())
    model.set_attn_implementation("sdpa")
    for save in (softmaxkit.save, PreTrainedModel.save_pretrained):
        with pytest.raises(ValueError, match=r"so its methods do not run.*call model\.set_attn_implementation"):
            save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_saving_a_quantised_model_is_refused(tmp_path: Path) -> None:
    model = patched("gpt2", Softermax())
    model.config.quantization_config = {"quant_method": "torchao"}
    for save in (softmaxkit.save, PreTrainedModel.save_pretrained):
        with pytest.raises(
            ValueError, match=r"is quantised, and the method would be stored in the same quantization_config"
        ):
            save(model, tmp_path / "model")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    patched("gpt2", ConSmax()).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda settings: settings.update(schema=9), "reads 1"),
        (lambda settings: settings.update(schema=True), "reads 1"),
        (lambda settings: settings.pop("layers"), "it names no layers"),
        (lambda settings: settings.update(layers={"h.9": settings["layers"]["transformer.h.0.attn"]}), "no layer h.9"),
        (lambda settings: settings["layers"]["transformer.h.0.attn"].pop("constants"), "'constants'"),
        (lambda settings: settings["layers"]["transformer.h.0.attn"]["spec"].update(bitz=3), "no key 'bitz'"),
        (lambda settings: settings["layers"]["transformer.h.0.attn"]["constants"].pop("high"), "have the keys"),
        (lambda settings: settings["layers"]["transformer.h.0.attn"]["constants"].update(high=[[1]] * 4), "the form"),
    ],
)
def test_damaged_settings_in_a_config_are_refused(damage: Any, message: str, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    damage(config["quantization_config"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    for load in (softmaxkit.load, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(ValueError, match=message):
            load(tmp_path)


def test_missing_learned_parameters_are_refused(tmp_path: Path) -> None:
    patched("gpt2", ConSmax()).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["transformer.h.1.attn.softmaxkit.beta"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for load in (softmaxkit.load, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(ValueError, match=r"incomplete: transformer\.h\.1\.attn\.softmaxkit\.beta is missing"):
            load(tmp_path)


@pytest.mark.parametrize("spec", [ConSmax(), Exaq(bits=3)], ids=["consmax", "exaq"])
def test_weights_may_be_offloaded_to_disk(spec: Spec, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    model = softmaxkit.calibrate(patched("gpt2", spec, "integer"), TOKENS)
    softmaxkit.save(model, tmp_path / "model")
    devices = {"transformer.h.1": "disk"} | dict.fromkeys(["transformer.wte", "transformer.wpe", "lm_head"], "cpu")
    devices |= {"transformer.h.0": "cpu", "transformer.ln_f": "cpu"}
    options: dict[str, Any] = {"device_map": devices, "offload_folder": str(tmp_path / "offloaded")}
    loaded = softmaxkit.load(tmp_path / "model", **options)
    assert next(loaded.get_submodule("transformer.h.1.mlp").parameters()).is_meta
    for mode in ("integer", "float", "fused"):
        softmaxkit.set_mode(model, mode)
        softmaxkit.set_mode(loaded, mode)
        assert torch.equal(logits(loaded), logits(model))


def test_load_refuses_a_checkpoint_that_lost_its_method(tmp_path: Path) -> None:
    patched("gpt2", Softermax()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="has lost its method"):
        softmaxkit.load(tmp_path)


def test_a_model_built_from_the_config_of_a_checkpoint_has_no_method(tmp_path: Path) -> None:
    patched("gpt2", Softermax()).save_pretrained(tmp_path / "method")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "method")).eval()
    with pytest.raises(ValueError, match="no layer 9"):
        softmaxkit.apply(model, Softermax(), layers=9)  # after which the model is as it was
    with pytest.warns(UserWarning, match="GPT2Attention runs exact softmax: the model was built from the config"):
        model(TOKENS[0])
    with pytest.warns(UserWarning, match="built from the config of a checkpoint with methods, but has none"):
        model.save_pretrained(tmp_path / "plain")
    assert not layers(softmaxkit.load(tmp_path / "plain", attn_implementation=NAME))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "method")).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        softmaxkit.apply(model, Exaq(bits=2), clip=-4.0).save_pretrained(tmp_path / "other")
    assert torch.equal(logits(softmaxkit.load(tmp_path / "other")), logits(model))


class OwnModel(GPT2LMHeadModel):
    """A subclass whose name transformers does not know."""


def test_a_custom_class_is_loaded_if_passed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = softmaxkit.apply(OwnModel(GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=4)).eval(), Softermax())
    softmaxkit.save(model, tmp_path)
    with pytest.raises(
        ValueError, match=r"\['OwnModel'\], which is not .*; pass the class with softmaxkit\.load\(\.\.\., model_class="
    ):
        softmaxkit.load(tmp_path)
    again = softmaxkit.load(tmp_path, model_class=OwnModel)
    assert isinstance(again, OwnModel)
    assert torch.equal(logits(again), logits(model))
    assert torch.equal(logits(softmaxkit.load(tmp_path, model_class=AutoModelForCausalLM)), logits(model))


def test_two_models_of_one_config_do_not_switch_one_another_off(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=4)
    one, two = GPT2LMHeadModel(config).eval(), GPT2LMHeadModel(config).eval()
    softmaxkit.apply(one, Softermax())
    softmaxkit.apply(two, Exaq(bits=2), clip=-4.0)
    expected = logits(two)
    softmaxkit.restore(one)
    assert torch.equal(logits(two), expected)
    two.save_pretrained(tmp_path)
    assert torch.equal(logits(softmaxkit.load(tmp_path)), expected)
    assert one.config._attn_implementation == "sdpa"
    assert softmaxkit.restore(two).config._attn_implementation == "sdpa"
    one.save_pretrained(tmp_path / "plain")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
