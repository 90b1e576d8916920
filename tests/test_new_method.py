"""A method that lives outside the package, `powers`, goes everywhere by its folder and its registry line alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import softmaxkit
from conftest import tiny_model
from powers import Powers
from softmaxkit import ConSmax, Exact, Exaq, Sigmoid, Softermax
from softmaxkit.cli import main
from softmaxkit.methods import METHODS
from softmaxkit.recipe import Recipe
from softmaxkit.report import render
from softmaxkit.studies.options import Options, TokenWindows
from softmaxkit.studies.preparation import Preparation, needs_training


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "powers", Powers)


SCORES = torch.randn(3, 5, 20, generator=torch.Generator().manual_seed(0)) * 2
MASK = torch.rand(3, 5, 20, generator=torch.Generator().manual_seed(1)) < 0.8


def test_its_name_is_public_and_its_json_is_read() -> None:
    assert softmaxkit.Powers is Powers  # type: ignore[attr-defined]
    assert softmaxkit.Spec.from_json(Powers(fraction_bits=2).to_json()) == Powers(fraction_bits=2)


def test_softmax_in_float_and_in_integers() -> None:
    spec = Powers()
    truth = spec.reference(SCORES.numpy(), MASK.numpy(), offset=4.0)
    given = softmaxkit.softmax(SCORES, spec, MASK, offset=4.0)
    # float32: an exponent of at most 16 is off by 2**-20, and so is the power, relatively.
    assert np.abs(given.detach().numpy() - truth).max() <= 2**-19
    constants = spec.constants(offset=4.0)
    codes = spec.encode(SCORES, constants)
    golden = spec.decode(spec.golden(codes, MASK, constants), constants)
    assert torch.equal(softmaxkit.softmax(SCORES, spec, MASK, mode="integer", offset=4.0), golden.float())
    bound = spec.error_bound(codes.numpy(), MASK.numpy(), constants, offset=4.0)
    reference = spec.reference(spec.score_values(codes, constants), MASK.numpy(), offset=4.0)
    assert (np.abs(golden.numpy() - reference) <= bound).all()


def test_attention_and_a_gradient_of_its_own_number() -> None:
    query, key, value = (torch.randn(1, 2, 7, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    scores = query @ key.mT * 8**-0.5
    for mode in ("float", "integer"):
        expected = softmaxkit.softmax(scores, Powers(), mode=mode, offset=2.0) @ value
        given = softmaxkit.attention(query, key, value, Powers(), mode=mode, offset=2.0)
        assert torch.allclose(given, expected, atol=1e-6)
    offset = torch.tensor(2.0, requires_grad=True)
    softmaxkit.softmax(scores - 4, Powers(), offset=offset).sum().backward()  # type: ignore[no-untyped-call]
    total = softmaxkit.softmax(scores - 4, Powers(), offset=2.0).sum()
    assert offset.grad is not None
    assert offset.grad.item() == pytest.approx(-np.log(2) * total.item(), rel=1e-5)  # float32 sums of 98 terms


def test_rows_in_parts_add_up() -> None:
    values = torch.randn(3, 20, 4)
    parts = [slice(0, 7), slice(7, 8), slice(8, 20)]
    empty = Powers().partial(offset=3.0)
    states = [empty.update(SCORES[..., part], MASK[..., part], values[:, part]) for part in parts]
    whole = softmaxkit.softmax(SCORES, Powers(), MASK, offset=3.0) @ values
    assert torch.allclose(states[2].merge(states[0]).merge(states[1]).result(), whole, atol=1e-5)


def test_into_a_model_and_back_from_a_checkpoint(tmp_path: Path) -> None:
    model, tokens = tiny_model("gpt2"), torch.arange(12)[None]
    softmaxkit.apply(model, Powers())
    for mode in ("float", "integer"):
        softmaxkit.set_mode(model, mode)
        before = model(tokens).logits
        loaded = softmaxkit.load(softmaxkit.save(model, tmp_path / mode))
        assert torch.equal(loaded(tokens).logits, before)


def test_hardware(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rtl", "powers", "--lanes", "2", "-o", str(tmp_path / "unit")]) == 0
    assert (tmp_path / "unit" / "softmaxkit_powers.sv").is_file()
    record = tmp_path / "verify.json"
    assert main(["verify", "powers", "--lanes", "3", "--outputs", "2000", "--json", str(record)]) == 0
    results = json.loads(record.read_text())["results"]
    assert all(result["compared"] >= 1000 and not result["mismatches"] for result in results)
    record = tmp_path / "synth.json"
    assert main(["synth", "powers", "--cells", "ice40", "--json", str(record)]) == 0
    assert json.loads(record.read_text())["results"][0]["luts"] > 0


def test_bench(tmp_path: Path) -> None:
    record = tmp_path / "bench.json"
    shapes = ["--shape", "16x64", "--shape", "2x8x8x4"]
    assert main(["bench", "--method", "powers", *shapes, "--rounds", "1", "--threads", "1", "--json", str(record)]) == 0
    assert "powers" in {result["method"] for result in json.loads(record.read_text())["results"]}


class FineTuned(Powers):
    """Powers as a method that is fine-tuned, with a learned offset all the same."""

    trained = "fine-tuned"


@pytest.mark.usefixtures("few_tokens")
def test_a_fine_tuned_method_learns_its_own_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "powers", FineTuned)
    text = tmp_path / "text.txt"
    text.write_text("all work and no play makes a dull text. " * 2000)
    windows = TokenWindows.read(options := Options([], text, recipe=Recipe(steps=4, context=16, constants_rate=9.0)))
    preparation = Preparation(replace(options, folder=tmp_path), windows, lambda _: lambda *_: None)
    _, curve = preparation.prepare(FineTuned())
    (constants,) = [entry["constants"] for entry in curve if "constants" in entry]
    assert all(values["offset"] != [4.0] for values in constants.values())
    # Its number has a learning rate of its own, and calibration alone does not set it.
    assert needs_training(FineTuned())
    assert preparation.folder(FineTuned()) != Preparation(
        replace(options, folder=tmp_path, recipe=Recipe(steps=4, context=16)), windows, preparation.stage
    ).folder(FineTuned())


def test_a_fine_tuned_method_with_its_own_number_is_not_compared_untrained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(METHODS, "powers", FineTuned)
    assert main(["compare", "--model", "any", "--method", "powers", "--steps", "0"]) == 2
    assert "powers has to be trained; give --steps" in capsys.readouterr().err


def test_only_numbers_that_calibration_does_not_set_need_training() -> None:
    assert needs_training(ConSmax())
    assert needs_training(Sigmoid())
    assert not any(map(needs_training, (Sigmoid(bias="fitted"), Exact(), Softermax(), Softermax(log2e=True), Exaq())))


@pytest.mark.usefixtures("few_tokens")
def test_compare_and_its_page(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("all work and no play makes a dull text. " * 2000)
    arguments = ["compare", "--text", str(text), "--method", "powers", "--steps", "3", "--windows", "4"]
    assert main([*arguments, "--context", "16", "--no-verify", "--no-synth", "-o", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert {result["method"] for result in record["results"]} == {"exact", "powers"}
    assert "<b>Powers</b>" in render(record)
