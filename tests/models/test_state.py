"""State dicts contain the calibration, which survives moving, resuming and half precision and is never lost."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import Trainer, TrainingArguments

import softmaxkit
from conftest import tiny_model
from softmaxkit import ConSmax, Exaq, Softermax, Spec
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.models.patch import layers, respecify

TOKENS = torch.randint(0, 100, (4, 20), generator=torch.Generator().manual_seed(0))
SPECS = [Exaq(bits=3), Exaq(bits=2, scale="calibrated", share="head"), ConSmax(), ConSmax(share="layer"), Softermax()]


def calibrated(spec: Spec, tokens: torch.Tensor = TOKENS) -> Any:
    model = softmaxkit.apply(tiny_model("gpt2"), spec, mode="integer")
    return softmaxkit.calibrate(model, [tokens])


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_state_dict_carries_the_calibration(spec: Spec) -> None:
    model, other = calibrated(spec), calibrated(spec, TOKENS[:1, :3])
    before = model(TOKENS).logits
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(TOKENS).logits, before)
    for name, module in layers(other).items():
        assert module.constants == layers(model)[name].constants
    other.load_state_dict(model.half().state_dict())  # weights lose bits, calibrations do not
    for name, module in layers(other).items():
        assert dict(module.calibration) == dict(layers(model)[name].calibration)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_state_dict_is_assigned_to_a_model_on_the_meta_device(spec: Spec) -> None:
    model, other = calibrated(spec), calibrated(spec, TOKENS[:1, :3])
    other.to("meta").load_state_dict(model.state_dict(), assign=True)
    assert not any(tensor.is_meta for tensor in other.state_dict().values())
    assert torch.equal(other(TOKENS).logits, model(TOKENS).logits)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_state_dict_without_values_keeps_the_current_calibration(spec: Spec) -> None:
    model = calibrated(spec)
    before, empty = model(TOKENS).logits, calibrated(spec).to("meta").state_dict()
    values = model.state_dict()
    model.load_state_dict(empty, assign=True)
    assert all(x.is_meta for key, x in model.state_dict().items() if not key.endswith(".calibrated"))
    model.load_state_dict(values, assign=True)
    assert torch.equal(model(TOKENS).logits, before)


def average(module: SoftmaxModule) -> SoftmaxModule:
    """Return an average as `AveragedModel` makes it, which rounds whole numbers to float32."""
    averaged = AveragedModel(nn.Sequential(nn.Linear(1, 1), module), use_buffers=True)
    averaged.update_parameters(nn.Sequential(nn.Linear(1, 1), module))
    averaged.update_parameters(nn.Sequential(nn.Linear(1, 1), module))
    result = averaged.module[1]
    assert isinstance(result, SoftmaxModule)
    return result


def emptied(module: SoftmaxModule) -> SoftmaxModule:
    """Return a copy whose memory was allocated anew, as for a model made on the meta device."""
    empty = copy.deepcopy(module).to_empty(device="cpu")
    empty.calibrated.fill_(-1)  # whatever was there
    return empty


@pytest.mark.parametrize("damage", [average, emptied])
@pytest.mark.parametrize("share", ["layer", "head"])
def test_a_state_dict_carries_the_calibration_in_use_whatever_became_of_its_buffer(damage: Any, share: Any) -> None:
    clip = -5.123 if share == "layer" else [-5.123, -4.321]
    module = Exaq(bits=3, share=share).module(heads=2, clip=clip, scale=0.1)
    saved, right = damage(module), module.state_dict()["calibrated"]
    assert not torch.equal(saved.calibrated, right)
    assert torch.equal(saved.state_dict()["calibrated"], right)
    other = Exaq(bits=3, share=share).module(heads=2, clip=-2.0)
    other.load_state_dict(saved.state_dict())
    assert other.constants == module.constants


def test_state_dicts_of_a_module_share_its_memory() -> None:
    module = ConSmax().module(heads=2, scale=0.1)
    assert module.state_dict()["calibrated"].data_ptr() == module.calibrated.data_ptr()
    on_meta = module.to("meta")
    assert all(x.is_meta for x in on_meta.state_dict().values())


def test_a_state_dict_without_calibration_keeps_the_current_one() -> None:
    model = calibrated(Exaq(bits=3))
    before = model(TOKENS).logits
    old = {key: x for key, x in model.state_dict().items() if not key.endswith(".calibrated")}
    assert len(old) < len(model.state_dict())
    model.load_state_dict(old)
    assert torch.equal(model(TOKENS).logits, before)


def test_a_trainer_resumes_with_the_calibration_of_its_checkpoint(tmp_path: Path) -> None:
    data = [{"input_ids": row, "labels": row} for row in TOKENS]

    def trainer(model: Any, steps: int) -> Trainer:
        arguments = TrainingArguments(
            str(tmp_path), max_steps=steps, save_steps=1, report_to="none", use_cpu=True, disable_tqdm=True
        )
        return Trainer(model, arguments, train_dataset=data)

    model = calibrated(Exaq(bits=3))
    trainer(model, 1).train()
    other = calibrated(Exaq(bits=3), TOKENS[:1, :3])
    clips = [module.calibration["clip"] for module in layers(model).values()]
    assert clips != [module.calibration["clip"] for module in layers(other).values()]
    trainer(other, 1).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert clips == [module.calibration["clip"] for module in layers(other).values()]


@pytest.mark.parametrize("spec", [Exaq(bits=3), Softermax()], ids=str)
def test_a_checkpoint_whose_config_lost_the_method_is_refused(spec: Spec, tmp_path: Path) -> None:
    softmaxkit.save(calibrated(spec), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    for key in ("quantization_config", "attn_implementation", "_attn_implementation"):
        config.pop(key, None)
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="has lost its method"):
        softmaxkit.load(tmp_path / "model")


def test_checkpoints_without_the_buffer_still_load(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = calibrated(Exaq(bits=3))
    softmaxkit.save(model, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = {key: x for key, x in load_file(file).items() if not key.endswith(".calibrated")}
    save_file(weights, file, metadata={"format": "pt"})
    again = softmaxkit.load(tmp_path / "model")
    assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)


def test_a_replica_of_data_parallel_computes_the_integers_of_its_original(tmp_path: Path) -> None:
    loaded = softmaxkit.load(softmaxkit.save(calibrated(ConSmax()), tmp_path))
    module = layers(loaded)["transformer.h.0.attn"]
    scores = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    before = module(scores)
    # What torch.nn.parallel.replicate does, without the GPUs that it needs.
    replica = module._replicate_for_data_parallel()
    replica._former_parameters = {}
    for name, parameter in module.named_parameters():
        setattr(replica, name, parameter.detach().clone())
        replica._former_parameters[name] = getattr(replica, name)
    assert torch.equal(replica(scores), before)


def test_reading_a_calibration_returns_a_copy() -> None:
    module = Exaq(share="head").module(heads=2, clip=[-2.0, -3.0])
    module.calibration["clip"][0] = -9.0
    assert module.calibration["clip"] == [-2.0, -3.0]


def test_another_spec_of_the_method_keeps_learned_parameters() -> None:
    model = calibrated(ConSmax())
    learned = {}
    for name, module in layers(model).items():
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.25
        module.beta.requires_grad = False
        learned[name] = [parameter.clone() for parameter in module.parameters()]
    softmaxkit.set_mode(model, "float")
    before = model(TOKENS).logits
    shift = ConSmax(tables="shift")
    assert shift.as_trained() == ConSmax(table_format=softmaxkit.UQ(0, 9)).as_trained() == ConSmax()
    assert respecify(model, shift) is model
    for name, module in layers(model).items():
        assert module.spec == shift
        assert all(map(torch.equal, module.parameters(), learned[name]))
        assert {key: x.requires_grad for key, x in module.named_parameters()} == {"beta": False, "log_gamma": True}
    assert torch.equal(model(TOKENS).logits, before)
    softmaxkit.set_mode(softmaxkit.calibrate(model, [TOKENS]), "integer")
    assert (model(TOKENS).logits - before).abs().max() < 0.1 * before.abs().max()


def test_calibration_keeps_what_it_may_have_to_undo_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    original = SoftmaxModule.unchanged_on_error
    monkeypatch.setattr(SoftmaxModule, "unchanged_on_error", lambda self: (kept.append(self), original(self))[1])
    model = softmaxkit.apply(tiny_model("gpt2"), softmaxkit.Exaq())
    softmaxkit.calibrate(model, [torch.arange(20)[None]])
    assert kept == [*softmaxkit.layers(model).values()]
