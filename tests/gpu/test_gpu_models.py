"""Methods in Hugging Face models on GPUs: kernels run automatically, in training too; unsupported cases warn."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import softmaxkit
from conftest import tiny_model
from softmaxkit import ConSmax, Exact, Exaq, Index, Softermax, Spec
from softmaxkit.kernels import backends, builds

pytest.importorskip("triton")

TOKENS = torch.arange(24).reshape(2, 12) * 7 % 100
METHODS: list[tuple[Spec, dict[str, Any]]] = [
    (Exact(), {}),
    (Softermax(), {}),
    (ConSmax(), {}),
    (Exaq(bits=2), {"clip": -6.0}),
]


def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(builds.VARIABLE, "none")
    backends.reset()


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> list[str]:
    """Return the kinds of attention that ran in kernels."""
    from softmaxkit.fused_attention import call
    from softmaxkit.models import fused_path

    seen: list[str] = []
    for module, name in ((fused_path, "fused"), (fused_path, "scaled_dot_product")):
        original = getattr(call, name)

        def watch(*arguments: Any, name: str = name, original: Any = original) -> Any:
            seen.append(name)
            return original(*arguments)

        monkeypatch.setattr(module, name, watch)
    return seen


def every_kind_with_every_method() -> Iterator[Any]:
    """Yield them; the fast tests have all methods in one kind of model, and one method in all kinds."""
    for kind, (spec, numbers) in itertools.product(("gpt2", "llama", "bert"), METHODS):
        marks = [] if kind == "llama" or spec == ConSmax() else pytest.mark.slow
        yield pytest.param(kind, spec, numbers, id=f"{kind}-{spec.method}", marks=marks)


@pytest.mark.parametrize(("kind", "spec", "numbers"), every_kind_with_every_method())
def test_float_layers_run_in_kernels_with_gradients(
    kind: str,
    spec: Spec,
    numbers: dict[str, Any],
    device: torch.device,
    launches: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = softmaxkit.apply(tiny_model(kind).to(device), spec, **numbers)
    padding = torch.ones(2, 12, dtype=torch.long, device=device)
    padding[0, :3] = 0
    results = []
    is_torchs_own = spec.module(heads=4, **numbers).softmax_base is not None
    for way in ("kernels", "torch"):
        if way == "torch":
            by_torch(monkeypatch)
        launches.clear()
        model.zero_grad()
        logits = model(TOKENS.to(device), attention_mask=padding).logits[:, 3:]
        logits.square().mean().backward()
        assert launches.count("fused") == (2 if way == "kernels" and not is_torchs_own else 0)
        assert way == "torch" or len(launches) == 2
        gradients = {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}
        results.append((logits.detach(), gradients))
    (logits, gradients), (truth, expected) = results
    torch.testing.assert_close(logits, truth, rtol=1e-4, atol=1e-4 * truth.abs().max().item())
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-3, atol=1e-8 + 1e-4 * expected[name].abs().max().item()
        )
    assert any("softmaxkit" in name for name in gradients) == (spec == ConSmax())


def test_fused_layers_says_what_runs(device: torch.device) -> None:
    model = softmaxkit.apply(tiny_model("gpt2").to(device), ConSmax())
    assert {choice.backend for choice in softmaxkit.models.fused_layers(model).values()} == {"triton"}
    model = softmaxkit.apply(tiny_model("gpt2").to(device), Softermax())
    assert "scaled_dot_product_attention" in str(next(iter(softmaxkit.models.fused_layers(model).values())))


@pytest.mark.parametrize(
    ("spec", "how", "reason"),
    [
        (Index(bits=8), {}, "has no fused attention for this form"),
        (ConSmax(), {"output_attentions": True}, "output_attentions needs"),
    ],
)
def test_what_goes_through_torch_warns_once(spec: Spec, how: dict[str, Any], reason: str, device: torch.device) -> None:
    model = softmaxkit.apply(tiny_model("gpt2").to(device), spec)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            model(TOKENS.to(device), **how)
    messages = [str(warning.message) for warning in caught if "runs in plain torch here" in str(warning.message)]
    assert len(messages) == 1
    assert reason in messages[0]


def test_softmax_trains_by_torchs_own_attention_in_mode_fused_too(device: torch.device, launches: list[str]) -> None:
    model = softmaxkit.apply(tiny_model("llama").to(device), Exact(), mode="fused").train()
    model(TOKENS.to(device)).logits.sum().backward()
    assert launches == ["scaled_dot_product"] * 2


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_kernels_run_under_autocast(kind: str, device: torch.device, launches: list[str]) -> None:
    """Rotary embeddings leave queries and keys in float32, and values come in bfloat16."""
    model = softmaxkit.apply(tiny_model(kind).to(device), ConSmax())
    with torch.autocast(device.type, torch.bfloat16), torch.no_grad():
        model(TOKENS.to(device))
    assert launches == ["fused"] * 2


def test_calibration_sees_scores_and_the_integer_mode_stays_the_gates(
    device: torch.device, launches: list[str]
) -> None:
    model = softmaxkit.apply(tiny_model("gpt2").to(device), Exaq(bits=2))
    softmaxkit.calibrate(model, [TOKENS.to(device)])
    assert not launches
    assert all(module.calibration["clip"] < 0 for module in softmaxkit.layers(model).values())
    softmaxkit.set_mode(model, "integer")
    with torch.no_grad():
        model(TOKENS.to(device))
    assert not launches


def test_who_watches_a_softmax_sees_its_scores(device: torch.device, launches: list[str]) -> None:
    model = softmaxkit.apply(tiny_model("gpt2").to(device), ConSmax())
    seen: list[torch.Size] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
        for module in softmaxkit.layers(model).values()
    ]
    with torch.no_grad():
        model(TOKENS.to(device))
        assert seen == [torch.Size((2, 4, 12, 12))] * 2
        assert not launches
        for hook in hooks:
            hook.remove()
        model(TOKENS.to(device))
    assert launches == ["fused", "fused"]


def test_trainer_in_bfloat16_and_compiled(device: torch.device, tmp_path: Path, launches: list[str]) -> None:
    from transformers import Trainer, TrainingArguments

    model = softmaxkit.apply(tiny_model("gpt2").to(device), ConSmax())
    model.config.resid_pdrop = model.config.attn_pdrop = 0.0
    before = {name: x.detach().clone() for name, x in model.named_parameters() if "softmaxkit" in name}
    rows = [{"input_ids": TOKENS[0], "labels": TOKENS[0]} for _ in range(4)]
    on_cpu = device.type == "cpu"
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=2, bf16=True, learning_rate=0.01, report_to=[],
        use_cpu=on_cpu, save_strategy="no", disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    Trainer(model=model, args=arguments, train_dataset=rows).train()  # type: ignore[arg-type]
    assert set(launches) == {"fused"}
    changed = [not torch.equal(x, before[name]) for name, x in model.named_parameters() if name in before]
    assert len(changed) == 4
    assert all(changed)


@pytest.mark.parametrize("spec", [ConSmax(), Softermax()], ids=lambda spec: spec.method)
def test_a_compiled_model_is_the_model(spec: Spec, device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("Dynamo does not go past the interpreter")
    model = softmaxkit.apply(tiny_model("gpt2").to(device), spec).eval()
    with torch.no_grad():
        truth = model(TOKENS.to(device)).logits
        compiled: Any = torch.compile(model, backend="inductor")
        result: Tensor = compiled(TOKENS.to(device)).logits
    torch.testing.assert_close(result, truth, rtol=1e-4, atol=1e-3)
    torch._dynamo.reset()
