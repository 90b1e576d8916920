"""Which back end runs on a card: every branch of the choice, with fake tensors on CUDA."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import softmaxkit
from softmaxkit import ConSmax, Exact, Exaq, Index, Sigmoid, Softermax
from softmaxkit.fused_attention.choice import choose
from softmaxkit.kernels import backends, builds, cards
from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.row_call import RowCall

pytest.importorskip("triton")
NUMBERS = {"beta": 1.0, "gamma": 2.0}
FAKE = FakeTensorMode()


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be an H100, whose tensors have no memory."""
    monkeypatch.setattr(cards, "capability", lambda index: (9, 0))
    monkeypatch.delenv(builds.VARIABLE, raising=False)
    monkeypatch.delenv(cards.INTERPRETER, raising=False)
    backends.reset()
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *where: module)  # parameters stay where they are


def on_card(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    with FAKE:
        return torch.empty(shape or (1, 2, 8, 64), dtype=dtype, device="cuda")


def test_attention_of_every_kind_has_its_back_end() -> None:
    query = on_card()
    levels = ((Exaq(bits=bits), {"clip": -4.0}) for bits in (2, 3, 4))
    for spec, numbers in ((ConSmax(), NUMBERS), (Sigmoid(), {"bias": -1.0}), *levels):
        choice = softmaxkit.explain(spec, query, query, query, **numbers)  # type: ignore[arg-type]
        assert choice == backends.Choice("triton")
    result = softmaxkit.attention(query, query, query, Exaq(), clip=-4.0)
    assert (result.device, result.dtype, result.shape) == (query.device, torch.bfloat16, query.shape)
    for spec in (Exact(), Softermax()):
        choice = softmaxkit.explain(spec, query, query, query)
        assert "scaled_dot_product_attention" in choice.refusals["triton"][0]


def test_levels_have_a_kernel_if_they_weigh_their_exponentials() -> None:
    query = on_card()
    of_heads = softmaxkit.explain(Exaq(share="head"), query, query, query, clip=[-4.0, -2.0])
    assert of_heads == softmaxkit.explain(Index(), query, query, query) == backends.Choice("triton")
    entries = Index(bits=3).powers
    for weighed, supported in (
        (AttentionCall.by_levels(-6.6, entries), True),
        (AttentionCall.by_levels(-6.5, entries), False),
        (AttentionCall.by_levels(-1.0, [0.1, 0.2, 0.5, 1.0]), False),
        (
            AttentionCall.by_levels_of_heads([-6.6, -6.6], [entries, [x + (x == 0) * math.exp(-6.6) for x in entries]]),
            False,
        ),
    ):
        assert (weighed.support("triton") is not None) == supported
    rows, others = (RowCall("level_table", (clip, entries)) for clip in (-6.6, -6.5))
    assert rows.support("triton")
    assert RowCall("level_table", heads=(rows, rows)).support("triton")
    assert not others.support("triton")
    assert not RowCall("level_table", heads=(rows, others)).support("triton")


def test_rows_and_integers_too() -> None:
    scores = on_card(3, 100, dtype=torch.float32)
    learned = ((ConSmax(), NUMBERS), (Sigmoid(), {"bias": -1.0}))
    for spec, numbers in ((Exact(), {}), (Softermax(), {}), *learned, (Exaq(), {"clip": -4.0})):
        assert softmaxkit.explain(spec, scores, **numbers).backend == "triton"  # type: ignore[arg-type]
        assert softmaxkit.explain(spec, scores, mode="integer", **numbers).backend == "triton"  # type: ignore[arg-type]


def test_gradients_are_the_kernels_own() -> None:
    query = on_card().requires_grad_()
    assert softmaxkit.explain(Exaq(), query, query, query, clip=-4.0).backend == "triton"
    rows = on_card(3, 100).requires_grad_()
    assert softmaxkit.explain(Exaq(), rows, clip=-4.0).backend == "triton"
    assert softmaxkit.explain(ConSmax(), rows, **NUMBERS).backend == "triton"
    assert softmaxkit.explain(Index(), rows).backend == "triton"


def test_dtypes_sizes_and_devices_that_there_is_no_kernel_for() -> None:
    wide, double = on_card(1, 2, 8, 512), on_card(dtype=torch.float64)
    assert softmaxkit.explain(ConSmax(), wide, wide, wide, **NUMBERS).refusals == {
        "triton": ["it supports up to 256 channels, not 512"],
        "flex": ["it supports up to 256 channels, not 512"],
    }
    assert softmaxkit.explain(ConSmax(), double, double, double, **NUMBERS).refusals["triton"] == [
        "it supports float32 or bfloat16 or float16, not float64"
    ]
    query = on_card()
    with FAKE:
        elsewhere = query.cpu()
    with pytest.raises(ValueError, match="must be on one device, got cuda:0, cpu, cuda:0"):
        softmaxkit.explain(Exaq(), query, elsewhere, query, clip=-4.0)
    mixed = choose(Exaq().module(clip=-4.0), query, elsewhere, query)[1]  # as a model's layer calls it
    assert mixed.backend == "torch"
    assert "different devices" in mixed.refusals["triton"][0]


def test_transforms_and_a_bias_go_through_torch_and_dropout_does_not() -> None:
    query = on_card(dtype=torch.float32)
    spec = Exaq()
    with torch.autograd.forward_ad.dual_level():
        choice = softmaxkit.explain(spec, query, query, query, clip=-4.0)
    assert choice.refusals["triton"] == ["its kernel does not support forward-mode derivatives"]
    module = spec.module(clip=-4.0)
    assert "a bias" in choose(module, query, query, query, bias=torch.ones(1))[1].refusals["triton"][0]
    assert choose(module, query, query, query, dropout_p=0.1)[1].backend == "triton"


@pytest.mark.parametrize(
    ("lacking", "reason"),
    [
        ("triton", "triton is not installed; on Linux, pip install 'softmaxkit[triton]' installs it"),
        ("NVIDIA", "it supports NVIDIA cards only, and this torch was built for AMD cards"),
        ("capability", "it needs compute capability 8.0 or higher, and this card has 7.5"),
    ],
)
def test_what_a_machine_lacks(lacking: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if lacking == "triton":
        monkeypatch.setattr(cards, "find_spec", lambda name: None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if lacking == "NVIDIA":
        monkeypatch.setattr(torch.version, "hip", "7.0")
    if lacking == "capability":
        monkeypatch.setattr(cards, "capability", lambda index: (7, 5))
    query = on_card()
    assert softmaxkit.explain(ConSmax(), query, query, query, **NUMBERS).refusals == {
        "triton": [reason],
        "flex": [reason],
    }


def test_an_old_torch_has_no_flex_but_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "LEAST_TORCH", "99.0")
    assert "from torch 99.0 on" in backends.unavailable("flex")
    assert not backends.unavailable("triton")


@pytest.mark.parametrize(
    ("asked", "chosen", "refused"),
    [("flex", "flex", {"triton"}), ("triton", "triton", set()), ("none", "torch", {"triton", "flex"}),
     ("plain", "torch", {"triton", "flex"})],
)  # fmt: skip
def test_the_environment_asks(asked: str, chosen: str, refused: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(builds.VARIABLE, asked)
    backends.reset()
    query = on_card()
    choice = softmaxkit.explain(ConSmax(), query, query, query, **NUMBERS)
    assert choice.backend == chosen
    assert set(choice.refusals) == refused
    assert all(f"{builds.VARIABLE}={asked} selects" in reasons[0] for reasons in choice.refusals.values())
    if chosen == "torch":
        assert f"={asked}" in choice.reasons(query.device)[0]


def test_the_interpreter_takes_the_cpu_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    query = torch.empty(1, 2, 8, 64)
    assert "triton" not in softmaxkit.explain(ConSmax(), query, query, query, **NUMBERS).refusals
    assert not backends.interprets()
    monkeypatch.setenv(cards.INTERPRETER, "1")
    backends.reset()
    if reason := cards.missing("triton"):
        pytest.skip(reason)
    assert backends.interprets()
    assert softmaxkit.explain(ConSmax(), query, query, query, **NUMBERS).backend == "triton"
    assert backends.candidates(torch.device("meta")) == tuple(builds.NATIVE)
