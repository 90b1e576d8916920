"""Models in several processes: what cannot be shared or gathered is refused, with the way that works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.nn.parallel import DistributedDataParallel

import softmaxkit
from conftest import sharded, tiny_model
from softmaxkit import ConSmax, Exaq
from softmaxkit.models.attention import UnsupportedError
from softmaxkit.models.patch import layers

TOKENS = torch.arange(24).reshape(2, 12)


def test_a_method_that_learns_comes_before_sharding(mesh: Any) -> None:
    whole = softmaxkit.calibrate(softmaxkit.apply(tiny_model("gpt2"), Exaq(bits=3)), [TOKENS])
    model = sharded(tiny_model("gpt2"), mesh)
    with pytest.raises(UnsupportedError, match=r"would not share beta, log_gamma of ConSmax; .* before fully_shard"):
        softmaxkit.apply(model, ConSmax())
    assert not layers(model)
    softmaxkit.calibrate(softmaxkit.apply(model, Exaq(bits=3)), [TOKENS])  # has nothing to share
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, whole(TOKENS).logits)


def test_a_model_wrapped_for_several_processes_is_too_late_for_a_method(mesh: Any) -> None:
    with pytest.raises(TypeError, match=r"not DistributedDataParallel; .* several processes, apply the method before"):
        softmaxkit.apply(DistributedDataParallel(tiny_model("gpt2")), ConSmax())  # type: ignore[arg-type]


def test_a_sharded_model_learns_and_is_saved_from_its_gathered_state(mesh: Any, tmp_path: Path) -> None:
    whole = softmaxkit.calibrate(softmaxkit.apply(tiny_model("gpt2"), ConSmax()), [TOKENS])
    model = sharded(softmaxkit.calibrate(softmaxkit.apply(tiny_model("gpt2"), ConSmax()), [TOKENS]), mesh)
    with pytest.raises(RuntimeError, match="calibrate before FSDP shards the model"):
        softmaxkit.calibrate(model, [TOKENS])
    for trained in (whole.train(), model.train()):
        torch.manual_seed(0)  # the same dropout
        optimizer = torch.optim.SGD(trained.parameters(), 0.1)
        trained(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    with pytest.raises(ValueError, match=r"sharded over processes; gather its state dict .*save_pretrained\(folder"):
        softmaxkit.save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    model.save_pretrained(tmp_path / "model", state_dict=state)
    again = softmaxkit.load(tmp_path / "model")
    for name, module in layers(again).items():
        assert module.constants == layers(whole)[name].constants
    assert torch.equal(again(TOKENS).logits, whole.eval()(TOKENS).logits)
