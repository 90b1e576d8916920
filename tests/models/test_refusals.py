"""Models are rejected for the true reason, and valid ones are not rejected."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import IMAGE, SEQUENCES, TEXT, make
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    WhisperConfig,
    WhisperModel,
    XLNetConfig,
    XLNetLMHeadModel,
)

import softmaxkit
from conftest import tiny_model
from softmaxkit import Exact, Softermax
from softmaxkit.models.attention import UnsupportedError
from softmaxkit.models.errors import first_line
from softmaxkit.models.evaluation import loss_on
from softmaxkit.models.examples import tiny_inputs
from softmaxkit.models.language_model import learned_tokens
from softmaxkit.models.patch import layers
from softmaxkit.models.pretrained import read_pretrained

NAMES = ["transformer.h.0.attn", "transformer.h.1.attn"]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_a_padded_example_is_compared_where_it_is_attended(kind: str) -> None:
    """Eager attention is arbitrary for a query that attends to nothing, e.g. left padding under a causal mask."""
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, :3] = 0
    example = {"input_ids": torch.arange(16).reshape(2, 8), "attention_mask": mask}
    assert len(layers(softmaxkit.apply(tiny_model(kind), Exact(), example=example))) == 2


def test_a_model_that_draws_random_numbers_is_compared_with_one_seed() -> None:
    torch.manual_seed(0)
    decoder = {f"decoder_{name}": value for name, value in IMAGE.items() if name not in ("image_size", "patch_size")}
    model = ViTMAEForPreTraining(ViTMAEConfig(**IMAGE, **decoder)).eval()
    state = torch.random.get_rng_state()
    assert len(layers(softmaxkit.apply(model, Softermax()))) == 4
    assert torch.equal(torch.random.get_rng_state(), state)


class Unsteady(nn.Module):
    """Adds different noise at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return states + self.calls


def test_a_model_that_ignores_the_seed_is_reported_as_random() -> None:
    model = tiny_model("gpt2")
    model.transformer.ln_f = nn.Sequential(model.transformer.ln_f, Unsteady())
    with pytest.raises(UnsupportedError, match="GPT2LMHeadModel is random"):
        softmaxkit.apply(model, Exact())
    assert model.config._attn_implementation == "eager"


def test_a_model_without_weights_is_refused() -> None:
    with torch.device("meta"):
        model = tiny_model("gpt2")
    with pytest.raises(UnsupportedError, match="GPT2LMHeadModel has no weights yet, being on the meta device"):
        softmaxkit.apply(model, Exact())


def test_paged_attention_is_named_as_the_reason() -> None:
    model = tiny_model("llama")
    model.set_attn_implementation("paged|eager")
    with pytest.raises(UnsupportedError, match=r"'paged\|eager' attention.*first call .*_implementation\('eager'\)"):
        softmaxkit.apply(model, Exact())
    model.set_attn_implementation("eager")
    softmaxkit.apply(model, Exact())


def test_a_model_with_nan_is_reported() -> None:
    model = tiny_model("gpt2")
    nn.init.constant_(model.transformer.h[1].mlp.c_proj.bias, torch.nan)
    with pytest.raises(UnsupportedError, match="returns NaN or infinity even without a method"):
        softmaxkit.apply(model, Exact())


def test_a_model_with_nan_is_not_reported_as_one_that_is_not_causal(tmp_path: Path) -> None:
    model, _ = make("GPT2LMHeadModel")
    learned_tokens("some words " * 9, 256).save_pretrained(tmp_path)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(math.nan)
    model.save_pretrained(tmp_path)
    assert read_pretrained(str(tmp_path), 8)[1] is not None
    with pytest.raises(FloatingPointError, match="held-out text is nan"):
        loss_on(model, torch.zeros((1, 9), dtype=torch.long))


def test_a_model_off_the_interface_is_refused_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = XLNetLMHeadModel(XLNetConfig(vocab_size=100, d_model=32, n_layer=1, n_head=4, d_inner=64)).eval()

    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("a crash of its own")

    monkeypatch.setattr(model, "forward", crash)
    with pytest.raises(UnsupportedError, match="does not run its attention through transformers' AttentionInterface"):
        softmaxkit.apply(model, Exact())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ViTForImageClassification", r"example=\{'pixel_values': images\}"),
        ("Wav2Vec2ForCTC", r"example=\{'input_values': sound\}"),
        ("WhisperForConditionalGeneration", r"example=\{'input_features': sound, 'decoder_input_ids': ids\}"),
        ("GPT2LMHeadModel", r"example=\{'input_ids': ids\}"),
    ],
)
def test_the_hint_names_the_inputs_of_the_model(name: str, hint: str) -> None:
    model, _ = make(name)
    with pytest.raises(UnsupportedError, match=rf"did not run on inputs of wrong \(1,\) .*{hint}"):
        softmaxkit.apply(model, Exact(), example={"wrong": torch.zeros(1)})
    # and the generated inputs run
    assert layers(softmaxkit.apply(model, Exact()))


def test_the_hint_names_all_main_inputs_of_a_model_that_has_several() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    vision = sizes | {"image_size": 16, "patch_size": 8}
    model = SiglipModel(SiglipConfig(text_config=sizes | {"vocab_size": 100}, vision_config=vision)).eval()
    with pytest.raises(UnsupportedError, match=r"example=\{'input_ids': ids, 'pixel_values': images\}"):
        softmaxkit.apply(model, Exact())
    # Its pooling head is torch's own module, which no inputs can bring to the interface.
    example = {"input_ids": torch.arange(8)[None], "pixel_values": torch.randn(1, 3, 16, 16)}
    message = r"vision_model\.head\.attention .* is torch's MultiheadAttention, .*; choose .* with layers=range\(2\)"
    with pytest.raises(UnsupportedError, match=message):
        softmaxkit.apply(model, Exact(), example=example)
    assert len(layers(softmaxkit.apply(model, Exact(), layers=range(2), example=example))) == 2


def test_generated_audio_fits_a_model_of_frames() -> None:
    model = WhisperModel(WhisperConfig(**SEQUENCES, num_mel_bins=8, max_source_positions=20))
    assert {name: tuple(tensor.shape) for name, tensor in tiny_inputs(model).items()} == {
        "input_features": (1, 8, 40),
        "decoder_input_ids": (1, 4),
    }


class Particular(PreTrainedModel):
    """A model that needs special inputs."""

    config_class = GPT2Config

    def __init__(self) -> None:
        super().__init__(GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=4, attn_implementation="eager"))
        self.inner = tiny_model("gpt2")
        self.runs = 0

    def forward(self, words: torch.Tensor) -> Any:
        self.runs += 1
        return self.inner(words)


def test_an_example_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Particular, "_can_set_attn_implementation", classmethod(lambda cls: True))
    model = Particular().eval()
    with pytest.raises(UnsupportedError, match="did not run on inputs of input_ids"):
        softmaxkit.apply(model, Exact())
    softmaxkit.apply(model, Exact(), example={"words": torch.arange(8)[None]})
    softmaxkit.apply(model, Softermax())
    softmaxkit.restore(model)
    assert len(layers(softmaxkit.apply(model, Softermax()))) == 2
    assert not [name for name in vars(model) if "example" in name]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (0, NAMES[:1]),
        (NAMES[1], NAMES[1:]),
        ([NAMES[1], 0], NAMES),
        (range(2), NAMES),
        (np.array([1]), NAMES[1:]),
        ([np.int64(0)], NAMES[:1]),
        (set(NAMES), NAMES),
    ],
)
def test_layers_are_chosen_by_index_and_name(wanted: Any, expected: list[str]) -> None:
    assert list(layers(softmaxkit.apply(tiny_model("gpt2"), Exact(), layers=wanted))) == expected


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        (0.0, TypeError, "got 0.0"),
        ([0, 1.0], TypeError, "got 1.0"),
        (True, TypeError, "got True"),
        ([False], TypeError, "got False"),
        ([[0]], TypeError, r"got \[0\]"),
        ([], ValueError, "layers is empty; leave it out to choose all layers"),
        ((), ValueError, "layers is empty"),
        ("h.0", ValueError, r"no layer 'h.0'; did you mean 'transformer\.h\.0\.attn'\?"),
        ("", ValueError, "no layer ''"),
        ([0, "transformer.h.2.attn"], ValueError, "no layer 'transformer.h.2.attn'; did you mean"),
        (-1, ValueError, r"no layer -1: the model has 2 attention layers, 0 to 1, called transformer\.h\.0\.attn to"),
        ([0, 2], ValueError, "no layer 2: "),
    ],
)
def test_invalid_layers_are_refused(wanted: Any, error: type[Exception], message: str) -> None:
    model = tiny_model("gpt2")
    with pytest.raises(error, match=message):
        softmaxkit.apply(model, Exact(), layers=wanted)
    assert not layers(model)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("path", ["./no/such", "/no/such/model", "no/such/model", Path("model"), "~/model"])
def test_a_missing_folder_is_not_taken_for_a_hub_name(path: str | Path) -> None:
    with pytest.raises(ValueError, match=r"does not exist; give the folder of a checkpoint, or a hub name"):
        softmaxkit.load(path)


def test_a_model_that_is_only_calibrated_need_not_be_causal(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = BertModel(BertConfig(**TEXT | {"vocab_size": 256}))
    encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="not a causal language model; this command measures the loss"):
        read_pretrained(str(tmp_path / "encoder"), 16)
    model, tokenizer = read_pretrained(str(tmp_path / "encoder"), 16, causal=False)
    assert isinstance(model, BertModel)
    assert tokenizer is None
    for name, needs in (("ViTForImageClassification", "pixel_values"), ("BartForConditionalGeneration", "decoder_inp")):
        make(name)[0].save_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=rf"is a {name}, which needs {needs}.*accepts dicts of any inputs"):
            read_pretrained(str(tmp_path / name), 16, causal=False)


def test_an_ambiguous_name_is_reported_as_folder_and_hub_name() -> None:
    with pytest.raises(ValueError, match="there is no folder results/model, and as a hub name results/model is no"):
        softmaxkit.load("results/model")


def test_an_error_without_a_message_is_named_by_its_type() -> None:
    assert first_line(ValueError()) == "ValueError"
    assert first_line(OSError("\n no such file \n more")) == "no such file "
