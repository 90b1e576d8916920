"""The cost of number formats on real rows is measured and causes a warning."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import softmaxkit
from conftest import tiny_model
from softmaxkit import ConSmax, Softermax
from softmaxkit.formats import UQ
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.models.evaluation import real_scores
from softmaxkit.models.format_loss import report_format_loss
from softmaxkit.models.patch import layers

TOKENS = torch.randint(0, 100, (2, 60), generator=torch.Generator().manual_seed(0))


def flat_model() -> Any:
    """Return a model whose attention is spread over all keys, so that coarse outputs are 0."""
    model = tiny_model("gpt2")
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight *= 0.01
    return model


def test_coarse_outputs_are_counted_and_cause_a_warning() -> None:
    model = softmaxkit.apply(flat_model(), Softermax(log2e=True, output=UQ(1, 4)), mode="fused")
    with pytest.warns(
        UserWarning, match=r"formats of Softermax are too narrow for rows of 60 keys: .* in 2 of 2 layers"
    ) as caught:
        report_format_loss(model, TOKENS)
    (text,) = [str(warning.message) for warning in caught if "too narrow" in str(warning.message)]
    assert "'softmaxkit recommend' finds formats that are wide enough" in text
    assert all(module.mode == "fused" for module in layers(model).values())
    softmaxkit.set_mode(model, "integer")
    for seen in real_scores(model, torch.nn.functional.pad(TOKENS, (0, 1))):
        dead = seen.attended & (seen.probabilities == 0)
        statistics = seen.module.statistics
        assert statistics["dead_outputs_percent"] == pytest.approx(100 * dead.sum().item() / seen.attended.sum().item())
        assert statistics["dead_outputs_percent"] > 30
        kept = seen.probabilities.double().sum() / seen.attended.any(-1).sum()  # rows of softmax sum to 1
        assert statistics["row_sum_change_percent"] == pytest.approx(100 * (kept.item() - 1), abs=1e-3)
        assert statistics["dead_probability_percent"] > 10
        real = seen.module.float_forward(seen.scores, seen.attended).detach()
        lost = 100 * real[dead].double().sum() / seen.attended.any(-1).sum()
        assert statistics["dead_probability_percent"] == pytest.approx(lost.item(), abs=1e-3)


def test_the_warning_is_about_the_worst_layer() -> None:
    model = softmaxkit.apply(flat_model(), Softermax(log2e=True, output=UQ(1, 15)), layers=[0])
    softmaxkit.apply(model, Softermax(log2e=True, output=UQ(1, 6)), layers=[1])
    with pytest.warns(UserWarning, match=r"of transformer\.h\.1\.attn change .* in 1 of 2 layers"):
        report_format_loss(model, TOKENS)
    model = softmaxkit.apply(tiny_model("gpt2"), Softermax(log2e=True, output=UQ(1, 4)), layers=[0])
    softmaxkit.apply(model, Softermax(log2e=True, output=UQ(1, 5)), layers=[1])
    with pytest.warns(UserWarning, match="in 2 of 2 layers") as caught:
        report_format_loss(model, TOKENS)
    first, second = (module.statistics for module in layers(model).values())
    change, dead = first["row_sum_change_percent"], first["dead_probability_percent"]
    assert 2 * abs(second["row_sum_change_percent"]) < -change < dead
    assert f"row sums of transformer.h.0.attn change by {change:+.1f}%, and {dead:.1f}% of its" in str(
        caught[0].message
    )


def test_zeros_that_leave_the_sums_alone_cause_a_warning() -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), Softermax(log2e=True, output=UQ(1, 6)))
    with pytest.warns(
        UserWarning, match=r"change by -0\.\d%, and \d\.\d% of its probability is rounded to 0; in 2 of 2"
    ):
        report_format_loss(model, TOKENS)
    assert all(module.statistics["dead_probability_percent"] > 1.5 for module in layers(model).values())


def test_smaller_sums_without_zeros_cause_a_warning() -> None:
    spec = Softermax(log2e=True, unnormalised=UQ(1, 22), output=UQ(1, 9), reciprocal=UQ(1, 15), rounding="floor")
    model = softmaxkit.apply(flat_model(), spec)
    next(iter(layers(model).values())).statistics = {"own": 1.0}
    with pytest.warns(UserWarning, match=r"are too narrow .* change by -\d\.\d%, and 0\.0% of its"):
        report_format_loss(model, TOKENS)
    statistics = next(iter(layers(model).values())).statistics
    assert statistics["own"] == 1
    assert -10 < statistics["row_sum_change_percent"] < -1
    assert statistics["dead_outputs_percent"] == statistics["dead_probability_percent"] == 0


def test_the_longest_row_is_counted_without_padding() -> None:
    model = softmaxkit.apply(tiny_model("bert"), Softermax(log2e=True))
    kept = torch.arange(60) < torch.tensor([[23], [17]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report_format_loss(model, {"input_ids": TOKENS, "attention_mask": kept.long()})
    for module in layers(model).values():
        assert module.statistics["longest_row"] == 23
        assert module.statistics["dead_outputs_percent"] < 100 * (23 + 17) / 120


def test_rows_of_zeros_lose_nothing() -> None:
    model = softmaxkit.apply(flat_model(), ConSmax(), beta=300.0, gamma=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report_format_loss(model, TOKENS)
    for module in layers(model).values():
        assert module.statistics["row_sum_change_percent"] == module.statistics["dead_probability_percent"] == 0
        assert module.statistics["dead_outputs_percent"] == 100


def test_inactive_adapters_get_their_mode_back() -> None:
    peft = pytest.importorskip("peft")
    model = softmaxkit.apply(flat_model(), ConSmax(), gamma=1000.0, beta=0.0)
    config = peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, modules_to_save=["softmaxkit"])
    adapted = peft.get_peft_model(model, config)
    report_format_loss(adapted.get_base_model(), TOKENS)
    modes = [module.mode for module in adapted.modules() if isinstance(module, SoftmaxModule)]
    assert modes == ["float"] * 4  # an original and a copy in each layer


def test_sufficient_formats_cause_no_warning() -> None:
    model = softmaxkit.apply(flat_model(), Softermax(log2e=True, output=UQ(1, 15), reciprocal=UQ(1, 15)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report_format_loss(model, TOKENS)
    assert all(abs(module.statistics["row_sum_change_percent"]) < 1 for module in layers(model).values())


def test_rows_that_do_not_sum_to_one_are_compared_with_their_own_sum() -> None:
    model = softmaxkit.apply(flat_model(), ConSmax(), gamma=1000.0, beta=0.0)
    softmaxkit.calibrate(model, [TOKENS])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report_format_loss(model, TOKENS)
