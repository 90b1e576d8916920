"""Texts, training with interruption and resumption, and evaluation."""

from __future__ import annotations

import math
import os
import signal
import sys
import types
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch

import softmaxkit
import softmaxkit.models.text as text_module
from powers import Powers
from softmaxkit import ConSmax, Exact, Exaq, Softermax
from softmaxkit.models.evaluation import error_series, figures, function_series, held_out_figures, loss_on, real_scores
from softmaxkit.models.language_model import language_model
from softmaxkit.models.text import NextToken, read_corpus
from softmaxkit.models.trainer import Interrupted, MethodTrainer, _Watch, training_arguments
from softmaxkit.models.training import checkpoint_at, train
from softmaxkit.recipe import Recipe, Shape

pytestmark = pytest.mark.usefixtures("few_tokens")
QUICK = Recipe(steps=8, context=16)
SMALL = Shape(layers=2, heads=2, width=32)


def test_a_corpus_is_bytes_split_at_nine_tenths(text: Path) -> None:
    corpus = read_corpus(text)
    assert corpus.size == 30_000
    assert len(corpus.train) == 27_000
    assert bytes(torch.cat([corpus.train, corpus.held_out]).tolist()) == text.read_bytes()
    windows = corpus.held_out_windows(context=64, count=10)
    assert windows.shape == (10, 65)
    assert torch.equal(windows[0], corpus.held_out[:65])
    batches = corpus.calibration_batches(64, batch=4, count=3)
    assert [batch.shape for batch in batches] == [(4, 64)] * 3


def test_the_default_text_is_the_standard_library() -> None:
    corpus = read_corpus(None)
    assert corpus.size == 1_200_000
    assert b"import" in bytes(corpus.train.tolist())


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"\n \n", "is empty"), (b"\x7fELF\0\0", "is not text")]
)
def test_texts_that_cannot_be_used_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_corpus(path)


def test_missing_and_short_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        read_corpus(tmp_path / "missing.txt")
    with pytest.raises(ValueError, match="Is a directory"):
        read_corpus(tmp_path)
    (tmp_path / "short.txt").write_text("too short")
    corpus = read_corpus(tmp_path / "short.txt")
    with pytest.raises(ValueError, match="give a longer text"):
        corpus.held_out_windows(64, 1)
    with pytest.raises(ValueError, match="give a longer text"):
        NextToken(corpus.train, 64)


def test_a_data_set_is_read_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(name: str, configuration: str | None, **options: Any) -> Any:
        asked.append((name, configuration, options))
        if name == "some/broken":
            raise ConnectionError("the hub is far\naway")
        return ({("words" if name == "some/other" else "text"): f"line {place}\n"} for place in range(10**9))

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr(text_module, "DATA_SET_BYTES", 1000)
    corpus = read_corpus(Path("some/data:small"))
    assert corpus.size == 1000
    assert bytes(corpus.train.tolist()).startswith(b"line 0\nline 1\n")
    assert asked == [("some/data", "small", {"split": "train", "streaming": True})]
    with pytest.raises(ValueError, match="the data set some/other: it has the columns words, but none named text"):
        read_corpus(Path("some/other"))
    with pytest.raises(ValueError, match=r"some/broken, and as a data set it cannot be read: the hub is far$"):
        read_corpus(Path("some/broken"))
    with pytest.raises(ValueError, match="No such file"):
        read_corpus(Path("some/file.txt"))


def test_next_token_pairs() -> None:
    item = NextToken(torch.arange(20), 4)[3]
    assert item["input_ids"].tolist() == [3, 4, 5, 6]
    assert item["labels"].tolist() == [4, 5, 6, 7]


def test_a_second_interrupt_aborts_at_once() -> None:
    watch = _Watch(set(), 0.0, None)
    with watch.interruptible():
        signal.raise_signal(signal.SIGINT)
        assert watch.interrupted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_stopped_training_resumes_to_the_same_model(text: Path, tmp_path: Path) -> None:
    corpus = read_corpus(text)

    def run(folder: Path, stop_at: int | None = None) -> torch.Tensor:
        model = softmaxkit.apply(language_model(SMALL, 16, 0), ConSmax())

        def progress(step: int, steps: int) -> None:
            if step == stop_at:
                os.kill(os.getpid(), signal.SIGINT)

        train(model, corpus, QUICK, folder, seed=0, progress=progress)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    whole = run(tmp_path / "whole")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="step 5 of 8"):
        run(tmp_path / "parts", stop_at=5)
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpoint_at(tmp_path / "parts", 5).is_dir()
    steps: list[int] = []
    model = softmaxkit.apply(language_model(SMALL, 16, 0), ConSmax())
    train(model, corpus, QUICK, tmp_path / "parts", seed=0, progress=lambda step, _: steps.append(step))
    resumed = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert steps == [6, 7, 8]
    assert torch.equal(resumed, whole)


def test_a_stopped_trainer_goes_on_with_the_next_call(text: Path, tmp_path: Path) -> None:
    steps: list[int] = []

    def progress(step: int, _: int) -> None:
        steps.append(step)
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    trainer = MethodTrainer(
        model=language_model(Shape(layers=1, heads=2, width=16), 16, 0),
        args=training_arguments(tmp_path / "run", 5, 1e-3, 0, per_device_train_batch_size=2),
        train_dataset=NextToken(read_corpus(text).train, 16),
        progress=progress,
    )
    with pytest.raises(Interrupted, match="step 2 of 5"):
        trainer.run()
    trainer.run()
    assert steps == [1, 2, 3, 4, 5]


def test_fine_tuning_branches_off_with_optimiser_and_schedule(text: Path, tmp_path: Path) -> None:
    corpus = read_corpus(text)
    curve = train(softmaxkit.apply(language_model(SMALL, 16, 0), Exact()), corpus, QUICK, tmp_path / "exact", seed=0)
    branch = checkpoint_at(tmp_path / "exact", QUICK.branch_step)
    steps: list[int] = []
    model = softmaxkit.apply(language_model(SMALL, 16, 1), Softermax(), mode="integer")
    fine = train(model, corpus, QUICK, tmp_path / "fine", 0, branch, lambda step, _: steps.append(step))
    assert steps == [7, 8]
    assert [entry for entry in fine if entry["step"] <= 6] == [entry for entry in curve if entry["step"] <= 6]
    assert all(math.isfinite(entry.get("loss", 0.0)) for entry in fine)


@pytest.mark.parametrize("rate", [1.0, 10.0])
def test_a_branch_may_have_learned_constants_that_its_origin_lacks(
    rate: float, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, shape = read_corpus(text), Shape(layers=1, heads=2, width=16)
    rates: list[list[float]] = []
    step = MethodTrainer.training_step

    def recorded(trainer: MethodTrainer, *arguments: Any, **named: Any) -> torch.Tensor:
        rates.append([group["lr"] for group in trainer.optimizer.param_groups])
        return step(trainer, *arguments, **named)

    monkeypatch.setattr(MethodTrainer, "training_step", recorded)
    train(softmaxkit.apply(language_model(shape, 16, 0), Exact()), corpus, QUICK, tmp_path / "exact", seed=0)
    exact, rates[:] = list(rates), []
    branch = checkpoint_at(tmp_path / "exact", QUICK.branch_step)
    model = softmaxkit.apply(language_model(shape, 16, 1), Powers())
    fine = train(model, corpus, replace(QUICK, constants_rate=rate), tmp_path / "fine", 0, branch)
    assert [row[:2] for row in rates] == exact[QUICK.branch_step :]
    assert [row[2] for row in rates] == pytest.approx([rate * row[1] for row in rates])
    (constants,) = [entry["constants"] for entry in fine if "constants" in entry]
    assert all(values["offset"] != [4.0] for values in constants.values())


def test_learned_constants_are_kept_out_of_weight_decay() -> None:
    model = softmaxkit.apply(language_model(SMALL, 16, 0), ConSmax())
    trainer = MethodTrainer.__new__(MethodTrainer)
    decayed = trainer.get_decay_parameter_names(model)
    assert not [name for name in decayed if "softmaxkit" in name]
    assert "transformer.h.0.attn.c_attn.weight" in decayed


def test_a_diverging_training_stops(text: Path, tmp_path: Path) -> None:
    model = language_model(SMALL, 16, 0)
    with torch.no_grad():
        model.transformer.wte.weight[0, 0] = math.nan
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 1, beginning in transformer.wte.weight"):
        train(model, read_corpus(text), QUICK, tmp_path / "run", seed=0)


def test_the_error_names_the_diverging_layer_and_the_last_good_checkpoint(text: Path, tmp_path: Path) -> None:
    model = language_model(Shape(), 16, 0)

    def progress(step: int, _: int) -> None:
        if step == 5:  # all weights are finite, but the layer's output is not
            model.transformer.h[2].mlp.register_forward_hook(lambda module, given, output: output + math.inf)

    with pytest.raises(FloatingPointError, match=r"at step 6, beginning in transformer.h.2.mlp; .*checkpoint-4;"):
        train(model, read_corpus(text), QUICK, tmp_path / "run", seed=0, progress=progress)
    assert checkpoint_at(tmp_path / "run", 4).is_dir()


def test_gradients_that_are_not_finite_stop_a_training_before_the_step(text: Path, tmp_path: Path) -> None:
    model = language_model(Shape(layers=2, heads=2, width=16), 16, 0)
    weight = model.transformer.h[1].mlp.c_proj.weight

    def progress(step: int, _: int) -> None:
        if step == 2:
            weight.register_hook(lambda gradient: gradient * math.nan)

    with pytest.raises(FloatingPointError, match="a gradient is not finite at step 3, beginning in transformer"):
        train(model, read_corpus(text), QUICK, tmp_path / "run", seed=0, progress=progress)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_learned_constants_have_a_separate_learning_rate(text: Path, tmp_path: Path) -> None:
    def moved(rate: float) -> float:
        model = softmaxkit.apply(language_model(Shape(layers=1, width=32), 16, 0), ConSmax())
        recipe = replace(QUICK, constants_rate=rate)
        curve = train(model, read_corpus(text), recipe, tmp_path / f"rate {rate}", seed=0)
        constants = [entry["constants"] for entry in curve if "constants" in entry]
        own = {name: module.beta.tolist() for name, module in softmaxkit.models.layers(model).items()}
        assert {name: values["beta"] for name, values in constants[-1].items()} == own
        return max(abs(beta - 1.5) for values in own.values() for beta in values)

    assert moved(0.0) == 0
    assert moved(10.0) > 3 * moved(1.0) > 0


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_language_models_are_causal(norm: Literal["pre", "post"]) -> None:
    model = language_model(Shape(layers=2, heads=2, width=32, norm=norm), 16, 0).eval()
    tokens = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, 9:] = 7
    with torch.no_grad():
        one, other = (softmaxkit.apply(model, ConSmax())(batch).logits for batch in (tokens, changed))
    assert torch.equal(one[:, :9], other[:, :9])
    assert not torch.equal(one[:, 9:], other[:, 9:])


def test_tokens_are_learned_from_the_training_part(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat. " * 400 + "zyzzyva " * 100)
    corpus = read_corpus(path, learned=265)
    assert corpus.train.max() < 265
    assert corpus.train.max() >= 256
    assert len(corpus.train) < 0.5 * path.stat().st_size
    with pytest.raises(ValueError, match="choose fewer tokens or give a longer text"):
        read_corpus(path, learned=5000)


@pytest.mark.parametrize("spec", [Softermax(), ConSmax(), Exaq(bits=3), Exact()], ids=lambda spec: spec.method)
def test_integer_training_does_not_diverge(spec: softmaxkit.Spec, text: Path, tmp_path: Path) -> None:
    corpus = read_corpus(text)
    model = language_model(Shape(layers=1, heads=2, width=64), 16, 0)
    softmaxkit.apply(model, spec, mode="integer", **({"clip": -6.0} if spec.method == "exaq" else {}))
    recipe = Recipe(steps=40, context=16, warmup_share=0.1)
    curve = [entry["loss"] for entry in train(model, corpus, recipe, tmp_path / "run", seed=0) if "loss" in entry]
    assert curve[-1] < curve[0] - 1


def test_evaluation_figures(text: Path) -> None:
    model = softmaxkit.apply(language_model(Shape(), 16, 0), Exact())
    windows = read_corpus(text).held_out_windows(16, 40)
    loss = loss_on(model, windows)
    with torch.no_grad():
        logits = model(windows[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()
    assert loss == pytest.approx(expected, rel=1e-6)
    every_token: Any = SimpleNamespace(tally=lambda _, right: (int(right.sum()), right.numel()))  # each is a word
    right = (logits.argmax(-1) == windows[:, 1:]).double().mean().item()
    assert held_out_figures(model, windows, every_token)["words_right_percent"] == pytest.approx(100 * right)
    seen = real_scores(model, windows[:8])
    assert [layer.scores.shape for layer in seen] == [(8, 4, 16, 16)] * 4
    assert figures(seen)["row_sum_mean"] == pytest.approx(1, abs=1e-6)
    assert "saturated_scores_percent" not in figures(seen)
    errors = error_series(seen)
    assert max(errors["mean_absolute_error"]) <= 1e-7  # a kernel rounds differently from torch
    assert sum(errors["share_of_scores"]) == pytest.approx(1)
    distances = [(x.scores - x.scores.where(x.attended, -torch.inf).amax(-1, keepdim=True))[x.attended] for x in seen]
    bins = (torch.cat(distances) / 0.5).floor().clamp(-48, -1)  # half a nat each; the maximum is in the last one
    assert errors["score_below_maximum"] == pytest.approx((bins.unique() * 0.5 + 0.25).tolist())
    assert errors["share_of_scores"] == pytest.approx((bins.unique(return_counts=True)[1] / bins.numel()).tolist())
    series = function_series(seen)
    assert len(series["score"]) == len(series["probability"]) == len(series["exact_probability"]) == 241
    assert series["probability"] == pytest.approx(series["exact_probability"], rel=1e-5)
    assert series["probability"] == sorted(series["probability"])
    assert series["probability"][0] < 0.01 < 0.3 < series["probability"][-1]


def test_a_loss_that_is_nan_is_refused() -> None:
    model = language_model(Shape(), 16, 0)
    with torch.no_grad():
        model.transformer.wte.weight[0] = math.nan
    with pytest.raises(FloatingPointError, match="the model's loss on held-out text is nan"):
        loss_on(model, torch.zeros((2, 17), dtype=torch.long))


def test_saturation_and_errors_are_measured() -> None:
    model = softmaxkit.apply(language_model(Shape(), 16, 0), Softermax(), mode="integer")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("c_attn.weight"):
                parameter *= 30
    seen = real_scores(model, torch.randint(0, 256, (4, 17), generator=torch.Generator().manual_seed(0)))
    metrics = figures(seen)
    outside = sum(((layer.scores < -32) | (layer.scores > 31.75)).sum().item() for layer in seen)
    assert metrics["saturated_scores_percent"] == pytest.approx(100 * outside / (4 * 4 * 4 * 17 * 8))
    assert metrics["saturated_scores_percent"] > 1
    assert max(error_series(seen)["mean_absolute_error"]) > 1e-3
