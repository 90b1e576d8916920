"""Figures of a method on real scores, against sums written by hand: which rows are kept, the sweep, errors by bin."""

from __future__ import annotations

import math

import pytest
import torch
from memory_use import memory_use
from transformers import GPT2Config, GPT2LMHeadModel

import softmaxkit
from conftest import tiny_model
from softmaxkit import ConSmax, Exact, Softermax, Spec
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.models import evaluation
from softmaxkit.models.evaluation import (
    RealScores,
    error_series,
    figures,
    function_series,
    held_out_figures,
    perplexity,
    real_scores,
)

FLOAT32 = 1e-6
"""Relative tolerance of a few operations in float32, whose unit roundoff is 6e-8."""


def layer_with(module: SoftmaxModule, scores: torch.Tensor, attended: torch.Tensor) -> RealScores:
    """Return a layer as it is seen in a model: scores are 0 where masked."""
    return RealScores(module, torch.where(attended, scores, 0.0), attended, module(scores, attended))


def random_layer(seed: int, module: SoftmaxModule) -> RealScores:
    """Return a layer of 2 windows and 2 heads whose attended scores are all below 0, the score of masked ones."""
    scores = -1 - 4 * torch.rand((2, 2, 3, 5), generator=torch.Generator().manual_seed(seed))
    return layer_with(module, scores, torch.tensor([True, True, False, True, True]).expand_as(scores))


@pytest.fixture
def windows() -> torch.Tensor:
    return torch.randint(0, 100, (2, 21), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("kept", "rows"), [(2 * 8 * 20 * 3 + 159, [0, 10, 19]), (1, [19]), (2 * 8 * 20 * 20, None)])
def test_of_many_scores_only_evenly_spaced_rows_are_kept(
    kept: int, rows: list[int] | None, windows: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), Exact())  # 2 layers with 4 heads each
    whole = real_scores(model, windows)
    monkeypatch.setattr(evaluation, "KEPT_SCORES", kept)
    for every, few in zip(whole, real_scores(model, windows), strict=True):
        assert few.module is every.module
        for name in ("scores", "attended", "probabilities"):
            expected = getattr(every, name)
            assert torch.equal(getattr(few, name), expected if rows is None else expected[:, :, rows])


def test_masked_scores_are_zero(windows: torch.Tensor) -> None:
    for seen in real_scores(softmaxkit.apply(tiny_model("gpt2"), Exact()), windows):
        assert not seen.scores[~seen.attended].any()
        assert seen.attended.sum(-1)[0, 0].tolist() == list(range(1, 21))


@pytest.mark.parametrize("spec", [Exact(), Softermax()], ids=str)
def test_the_sweep_is_over_the_highest_score_of_one_row(spec: Spec) -> None:
    seen = [random_layer(seed, spec.module()) for seed in range(3)]
    series = function_series(seen, points=15)
    row = seen[1].scores[0, 0, -1][seen[1].attended[0, 0, -1]].double()
    others = row.sort().values[:-1]
    swept = [others[-1].item() - 10 + step for step in range(15)]
    assert series["score"] == pytest.approx(swept, rel=FLOAT32, abs=FLOAT32)
    rest = sum(spec.base**score for score in others.tolist())
    exact = [spec.base**score / (spec.base**score + rest) for score in swept]
    # An exponent is off by 1e-6 at most.
    assert series["exact_probability"] == pytest.approx(exact, rel=1e-5)
    assert series["probability"] == pytest.approx(exact, rel=1e-5)


def test_the_sweep_uses_the_constants_of_its_head() -> None:
    seen = [random_layer(0, ConSmax(ceiling=1000.0).module(heads=2, beta=[1.0, 3.0], gamma=1.0))]
    series = function_series(seen, points=15)
    assert series["probability"] == pytest.approx([math.exp(score - 1) for score in series["score"]], rel=1e-5)


def test_a_row_of_one_key_is_swept_around_zero() -> None:
    scores = torch.full((1, 1, 1, 3), -7.0)
    seen = [layer_with(Exact().module(), scores, torch.tensor([False, True, False]).expand_as(scores))]
    series = function_series(seen, points=3)
    assert series == {"score": [-10, -3, 4], "probability": [1, 1, 1], "exact_probability": [1, 1, 1]}


def test_errors_are_those_against_the_methods_own_base() -> None:
    scores = torch.tensor([[[[-40.0, -3.25, -0.25, 0.0, 9.0]]]])
    attended = torch.tensor([True, True, True, True, False]).expand_as(scores)
    layer = layer_with(Softermax().module(), scores, attended)
    powers = 2.0 ** scores[0, 0, 0, :4].double()
    ideal = powers / powers.sum()
    assert layer.ideal[0, 0, 0].tolist() == pytest.approx([*ideal.tolist(), 0.0], rel=FLOAT32)
    wrong = torch.cat((ideal + torch.tensor([0.5, 0.25, -0.125, 0.375]), torch.zeros(1)))
    series = error_series([RealScores(layer.module, layer.scores, attended, wrong.float().view_as(scores))])
    # In the last bin are the maximum and the score just below it.
    assert series["score_below_maximum"] == [-23.75, -3.25, -0.25]
    assert series["mean_absolute_error"] == pytest.approx([0.5, 0.25, 0.25], rel=FLOAT32)
    assert series["share_of_scores"] == [0.25, 0.25, 0.5]


def test_rows_without_keys_have_no_sum() -> None:
    scores = torch.zeros(1, 1, 2, 3)
    attended = torch.tensor([[True] * 3, [False] * 3]).expand_as(scores)
    metrics = figures([layer_with(Exact().module(), scores, attended)])
    assert metrics == {"row_sum_mean": 1, "row_sum_min": 1, "row_sum_max": 1}


def test_the_loss_does_not_depend_on_chunks_or_batches(windows: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), Exact())
    with torch.no_grad():
        logits = model(windows[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="none")
    monkeypatch.setattr(evaluation, "LOSS_TOKENS", 7)
    monkeypatch.setattr(evaluation, "BATCH", 1)
    losses: list[torch.Tensor] = []
    done: list[tuple[int, int]] = []
    metrics = held_out_figures(model, windows, progress=lambda *counts: done.append(counts), see_losses=losses.append)
    assert [len(some) for some in losses] == [7, 7, 6] * 2
    assert torch.allclose(torch.cat(losses), expected, rtol=1e-4)
    assert metrics["loss_nats"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss_nats"]), rel=1e-12)
    assert done == [(1, 2), (2, 2)]


def test_a_loss_takes_little_memory_besides_the_logits() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=4096, n_positions=1024, n_embd=8, n_layer=1, n_head=1))
    most, _ = memory_use(lambda: held_out_figures(model, torch.randint(4096, (1, 1025))))
    assert most < 1.6 * 4 * 4096 * 1024  # torch's own attention included


def test_a_perplexity_too_large_for_a_float_is_infinite() -> None:
    assert perplexity(2.0) == math.exp(2.0)
    assert perplexity(800.0) == math.inf
