"""Putting methods into models and taking them out again: chosen layers, and models that are refused."""

from __future__ import annotations

import copy
import pickle
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from architectures import make
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, GPT2Config, PreTrainedModel

import softmaxkit
from conftest import tiny_model
from softmaxkit import Exact, Exaq, Softermax
from softmaxkit.models.attention import NAME, UnsupportedError, attention_forward, boolean_mask
from softmaxkit.models.patch import layers


@torch.no_grad()
def test_layers_are_chosen_and_others_stay_exact() -> None:
    model = tiny_model("gpt2")
    inputs = {"input_ids": torch.randint(0, 100, (3, 12), generator=torch.Generator().manual_seed(0))}
    before = model(**inputs).logits
    softmaxkit.apply(model, Softermax(), layers=[1])
    assert list(layers(model)) == ["transformer.h.1.attn"]
    one = model(**inputs).logits
    softmaxkit.apply(model, Exaq(bits=4), layers=[0], clip=-8.0)
    assert [module.spec.method for module in layers(model).values()] == ["exaq", "softermax"]
    assert not torch.allclose(one, before)
    with pytest.raises(ValueError, match="no layer 2: the model has 2 attention layers, 0 to 1"):
        softmaxkit.apply(model, Softermax(), layers=[2])
    assert len(layers(softmaxkit.restore(model))) == 0
    assert torch.equal(model(**inputs).logits, before)


def test_a_failed_apply_leaves_the_model_unchanged() -> None:
    model = tiny_model("gpt2")
    for wrong in ({"layers": [7]}, {"mode": "int"}, {"gamma": 3.0}):
        with pytest.raises((ValueError, TypeError)):
            softmaxkit.apply(model, Softermax(), **wrong)  # type: ignore[arg-type]
        assert model.config._attn_implementation == "eager"
        assert not layers(model)


def test_restore_returns_the_original_attention_after_any_changes() -> None:
    model = tiny_model("gpt2")
    softmaxkit.apply(model.transformer, Softermax())  # only the submodel
    softmaxkit.apply(model, Exact(), layers=[0])
    softmaxkit.restore(model)
    assert model.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="no layer 9"):
        softmaxkit.apply(model, Exact(), layers=[9])
    model.set_attn_implementation("sdpa")
    assert softmaxkit.restore(model).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("copied", [lambda model: model, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_model_made_from_the_config_of_a_switched_one_gets_its_own(copied: Callable[[Any], Any]) -> None:
    model = copied(softmaxkit.apply(tiny_model("gpt2"), Exact()))
    made = softmaxkit.apply(type(model)(model.config), Softermax())
    softmaxkit.restore(model)
    softmaxkit.set_mode(made, "integer")  # raises if its methods do not run
    assert softmaxkit.restore(made).config._attn_implementation == model.config._attn_implementation == "eager"


def test_copies_outlive_the_model_and_are_freed_with_their_last_reference() -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), Exact())
    shallow = copy.copy(model)
    first = weakref.ref(model)
    del model
    assert first() is None
    assert copy.deepcopy(shallow).config._attn_implementation == NAME


def test_an_attention_function_set_after_apply_is_detected() -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), Exact())
    model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="so its methods do not run"):
        softmaxkit.set_mode(model, "integer")
    with pytest.warns(UserWarning, match="GPT2LMHeadModel runs 'sdpa' attention and not the methods in it"):
        model(torch.arange(8)[None])


@pytest.mark.parametrize("copied", [lambda model: model, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_model_warns_once_when_transformers_switches_its_methods_off(copied: Callable[[Any], Any]) -> None:
    model, inputs = make("WhisperForConditionalGeneration")
    model = copied(softmaxkit.apply(model, Softermax()))
    settings = {"alignment_heads": [[0, 0]], "no_timestamps_token_id": 90, "median_filter_width": 3}
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    options: dict[str, Any] = {"return_token_timestamps": True, "return_timestamps": True, "max_new_tokens": 4}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            model.generate(inputs["input_features"][:1], **options)
    assert sum("runs 'eager' attention and not the methods" in str(warning.message) for warning in caught) == 1
    model.set_attn_implementation(NAME)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(**inputs)
    assert not softmaxkit.restore(model)._forward_pre_hooks


@pytest.mark.parametrize("name", ["s_aux", "sinks", "indices", "block_table", "write_index"])
def test_unsupported_arguments_are_refused(name: str) -> None:
    query = torch.zeros(1, 2, 3, 4)
    assert attention_forward(nn.Linear(1, 1), query, query, query, None, cache=DynamicCache())[0].shape == (1, 3, 2, 4)
    with pytest.raises(UnsupportedError, match="which no method of softmaxkit supports"):
        attention_forward(nn.Linear(1, 1), query, query, query, None, **{name: torch.zeros(2)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_whose_attention_does_more_is_refused(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact softmax through the interface must reproduce the model's original outputs."""
    model = tiny_model("llama").to(dtype)

    def doubled(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        output, weights = attention_forward(module, query, key, value, mask, **kwargs)
        return 2 * output, weights

    monkeypatch.setitem(AttentionInterface._global_mapping, "doubled", doubled)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "doubled", boolean_mask)
    model.set_attn_implementation("doubled")
    with pytest.raises(
        UnsupportedError, match="returns other outputs with exact softmax through transformers' AttentionInterface"
    ):
        softmaxkit.apply(model, Exact())
    assert model.config._attn_implementation == "doubled"


def test_layers_that_do_not_call_the_interface_are_named() -> None:
    class SideAttention(nn.Module):
        pass

    model = tiny_model("gpt2")
    model.transformer.side = SideAttention()
    message = r"transformer\.side of GPT2LMHeadModel did not call the attention interface on {}; if it did not run"
    with pytest.raises(UnsupportedError, match=message.format("a tiny input")):
        softmaxkit.apply(model, Softermax())
    with pytest.raises(UnsupportedError, match=message.format("the example")):
        softmaxkit.apply(model, Softermax(), example={"input_ids": torch.arange(8)[None]})
    assert not layers(model)
    assert len(layers(softmaxkit.apply(model, Softermax(), layers=range(2)))) == 2


def test_modules_that_are_no_transformers_models_are_refused() -> None:
    with pytest.raises(TypeError, match=r"use spec\.module\(heads=\.\.\.\) instead of softmax"):
        softmaxkit.apply(nn.Linear(2, 2), Exact())  # type: ignore[arg-type]


class Stubborn(PreTrainedModel):
    """A model that does not call the attention interface, openly or silently."""

    config_class = GPT2Config

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return input_ids


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        (False, "does not run its attention through transformers' AttentionInterface"),
        (True, "ran without calling transformers' AttentionInterface"),
    ],
)
def test_a_model_off_the_interface_is_refused(claims: bool, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stubborn, "_can_set_attn_implementation", classmethod(lambda cls: claims))
    model = Stubborn(GPT2Config())
    with pytest.raises(ValueError, match=message):
        softmaxkit.apply(model, Exact())
    assert model.config._attn_implementation != NAME


def test_a_model_that_does_not_run_on_token_ids_alone_names_the_remedy() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match=r"apply\(\.\.\., example="):
        softmaxkit.apply(model, Exact(), example={"pixels": torch.zeros(1)})
    softmaxkit.apply(model, Exact(), example={"input_ids": torch.zeros((1, 2), dtype=torch.long)})


def test_set_mode_needs_a_method() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match=r"softmaxkit\.apply\(model, spec\)"):
        softmaxkit.models.set_mode(model, "integer")
    softmaxkit.apply(model, Exact())
    softmaxkit.models.set_mode(model, "integer")
    assert {module.mode for module in layers(model).values()} == {"integer"}
