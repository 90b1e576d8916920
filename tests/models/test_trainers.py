"""A plain Trainer, a sharded one and PEFT keep the method and its learned constants."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from saved_models import TOKENS, Rows, logits, patched
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import softmaxkit
from conftest import sharded, tiny_model
from softmaxkit import ConSmax, Exaq, Spec
from softmaxkit.models.attention import NAME
from softmaxkit.models.patch import layers
from softmaxkit.models.trainer import MethodTrainer, training_arguments


def arguments(folder: Path, **further: Any) -> TrainingArguments:
    return TrainingArguments(
        str(folder),
        max_steps=4,
        save_steps=2,
        per_device_train_batch_size=4,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=1,
        learning_rate=1e-2,
        **further,
    )


@pytest.mark.parametrize("spec", [ConSmax(), Exaq(bits=3)], ids=["consmax", "exaq"])
def test_a_plain_trainers_checkpoints_carry_the_method_and_are_resumed(spec: Spec, tmp_path: Path) -> None:
    model = patched("gpt2", spec)
    Trainer(model, arguments(tmp_path), train_dataset=Rows()).train()
    model.eval()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-4")
    assert torch.equal(logits(again), logits(model))
    # Resumed from the middle checkpoint, loaded by transformers alone, training ends with the same model.
    resumed = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2", attn_implementation=NAME)
    Trainer(resumed, arguments(tmp_path / "resumed"), train_dataset=Rows()).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-2")
    )
    assert torch.allclose(logits(resumed.eval()), logits(model), atol=1e-5)


@pytest.mark.parametrize("kind", [Trainer, MethodTrainer])
def test_weight_decay_leaves_learned_constants_alone(kind: Any, tmp_path: Path) -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), ConSmax())
    own = training_arguments(tmp_path, 2, 1e-3, 0, weight_decay=0.1)
    trainer = kind(model=model, args=own, train_dataset=Rows())
    optimizer = trainer.create_optimizer()
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert "transformer.h.0.attn.c_attn.weight" in names
    assert not [name for name in names if NAME in name]
    every = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert every == {id(parameter) for parameter in model.parameters()}


@pytest.mark.slow
def test_a_model_sharded_over_processes_is_saved_whole(
    mesh: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP of PyTorch 2, over one process: parameters are DTensors, and the state dict is gathered before saving."""
    from torch import distributed
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    model = patched("gpt2", ConSmax())
    expected = logits(model)
    sharded(model, mesh)
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    model.save_pretrained(tmp_path / "model", state_dict=state)

    def wait_for_ever(_: Any) -> None:
        raise AssertionError("the main process, which has the state dict, does not take part")

    monkeypatch.setattr(distributed.tensor.DTensor, "full_tensor", wait_for_ever)
    model.save_pretrained(tmp_path / "model", state_dict={}, is_main_process=False)
    with pytest.raises(ValueError, match="the state dict lacks beta, log_gamma of its methods"):
        model.save_pretrained(tmp_path / "other", state_dict={})
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(logits(again), expected)
    assert len(layers(again)) == 2


@pytest.fixture
def lora() -> Any:
    peft = pytest.importorskip("peft")
    return lambda **further: peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, **further)


def test_adapters_that_freeze_learned_constants_cause_a_warning(lora: Any) -> None:
    import peft

    model = peft.get_peft_model(softmaxkit.apply(tiny_model("gpt2"), ConSmax()), lora()).train()
    assert len(layers(model)) == 2
    with pytest.warns(UserWarning, match=r'without beta and log_gamma of .* modules_to_save=\["softmaxkit"\]'):
        model(TOKENS[0], labels=TOKENS[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model(TOKENS[0], labels=TOKENS[0])


def test_an_adapters_learned_constants_replace_those_of_the_base_in_integers_too(lora: Any, tmp_path: Path) -> None:
    import peft

    softmaxkit.save(patched("gpt2", ConSmax(), "integer"), tmp_path / "base")
    model = peft.get_peft_model(softmaxkit.load(tmp_path / "base"), lora(modules_to_save=[NAME])).eval()
    with torch.no_grad():
        for module in layers(model).values():
            module.get_parameter("beta").add_(0.5)
    expected = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(softmaxkit.load(tmp_path / "base"), tmp_path / "adapter")
    assert not torch.equal(expected, logits(softmaxkit.load(tmp_path / "base")))
    assert torch.equal(logits(again), expected)
    merged = softmaxkit.save(again.merge_and_unload(), tmp_path / "merged")
    assert torch.equal(logits(softmaxkit.load(merged)), logits(again))


def test_adapters_train_learned_constants_that_are_saved_with_them(lora: Any, tmp_path: Path) -> None:
    import peft

    base = softmaxkit.apply(tiny_model("gpt2"), ConSmax())
    softmaxkit.save(base, tmp_path / "base")
    start = layers(base)["transformer.h.0.attn"].get_parameter("beta").detach().clone()
    model = peft.get_peft_model(base, lora(modules_to_save=[NAME])).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model(TOKENS[0], labels=TOKENS[0]).loss.backward()
    optimizer.step()
    trained = layers(model)["base_model.model.transformer.h.0.attn"]
    assert trained is layers(base)["transformer.h.0.attn"]
    assert not torch.equal(trained.get_parameter("beta"), start)
    model.eval()
    for mode in ("float", "integer"):
        softmaxkit.set_mode(model, mode)
        softmaxkit.calibrate(base, TOKENS)
        assert {module.mode for module in layers(model).values()} == {mode}
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(softmaxkit.load(tmp_path / "base"), tmp_path / "adapter").eval()
    softmaxkit.set_mode(again, "integer")
    softmaxkit.calibrate(again.get_base_model(), TOKENS)
    assert torch.equal(logits(again), logits(model))
    # `save` accepts only the merged model.
    with pytest.raises(TypeError, match=r"not PeftModel.*; merge them into it first"):
        softmaxkit.save(model, tmp_path / "model")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"contains PEFT adapters; merge them into it first"):
        softmaxkit.save(base, tmp_path / "model")
    merged = model.merge_and_unload()
    expected = logits(merged)
    assert torch.equal(logits(softmaxkit.load(softmaxkit.save(merged, tmp_path / "merged"))), expected)
