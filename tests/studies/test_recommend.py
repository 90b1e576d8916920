"""The narrowest formats within a budget of loss."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

import softmaxkit
from conftest import tiny_model
from softmaxkit import Spec
from softmaxkit.cli import main
from softmaxkit.methods import BASELINE, METHODS
from softmaxkit.models.language_model import language_model, learned_tokens
from softmaxkit.recipe import Shape
from softmaxkit.studies.recommend import Search, narrowest
from softmaxkit.studies.yardsticks import on_task

NARROWING = [method for method in METHODS.values() if method.widest(64) is not None]


class Table(Search):
    """A search whose losses follow a rule instead of a model."""

    def __init__(self, rule: Any, error: float | None = None) -> None:
        super().__init__(None, Path())  # type: ignore[arg-type]
        self.rule, self.error = rule, error

    def standard_error(self, spec: Spec) -> float | None:
        return self.error

    def change(self, spec: Spec) -> float:
        self.figures[spec] = change = self.rule(spec)
        return float(change)


@pytest.mark.parametrize("method", NARROWING, ids=lambda method: method.method)
def test_candidates_differ_in_one_field_and_become_wider(method: type[Spec]) -> None:
    widest = method.widest(1024)
    assert widest is not None
    for what, candidates in widest.narrower().items():
        assert candidates, what
        names = [field.name for field in dataclasses.fields(widest)]
        changed = [[name for name in names if getattr(spec, name) != getattr(widest, name)] for spec in candidates]
        assert all(len(of_spec) == 1 and of_spec == changed[0] for of_spec in changed)
        assert len(set(candidates)) == len(candidates)
        assert all(spec.unit(lanes=1, max_row=64) for spec in candidates)


def test_the_sum_format_fits_the_longest_row() -> None:
    widest = softmaxkit.Softermax.widest(4096)
    assert widest.power_sum.max_code * widest.power_sum.resolution >= 4096


def test_the_search_keeps_the_narrowest_format_within_the_budget() -> None:
    widest = softmaxkit.Softermax.widest(1024)

    def loss(spec: Any) -> float:
        return sum(
            [
                10.0 if spec.output.fraction_bits < 11 else 0.2,
                10.0 if spec.input.integer_bits < 7 else 0.0,
                10.0 if spec.input.fraction_bits < 3 else 0.0,
            ]
        )

    search = Table(loss)
    seen: list[tuple[int, int]] = []
    spec, steps = narrowest(search, widest, 0.5, lambda done, total: seen.append((done, total)))
    assert isinstance(spec, softmaxkit.Softermax)
    assert str((spec.output, spec.input)) == "(UQ(1,11), Q(7,3))"
    assert (spec.reciprocal.fraction_bits, spec.power_sum.fraction_bits) == (7, 4)
    assert [step["what"] for step in steps] == [*widest.narrower()]
    assert steps[0]["tried"]["output=UQ(1,11)"] == 0.2
    assert seen[-1] == (5, 5)
    assert len(search.figures) < 16


def test_a_borderline_format_exceeds_the_budget() -> None:
    widest = softmaxkit.Softermax.widest(1024)

    def loss(spec: Any) -> float:
        return 0.45 if spec.output.fraction_bits < widest.output.fraction_bits else 0.2

    (sure, _), (unsure, steps) = (
        narrowest(Table(loss, error), widest, 0.5, lambda done, total: None) for error in (0.04, 0.06)
    )
    assert isinstance(sure, softmaxkit.Softermax)
    assert isinstance(unsure, softmaxkit.Softermax)
    assert sure.output.fraction_bits < unsure.output.fraction_bits == widest.output.fraction_bits
    assert steps[0]["chosen"].endswith("(+0.20 ± 0.06)")


def test_the_widest_spec_is_returned_if_it_exceeds_the_budget() -> None:
    widest = softmaxkit.Exaq.widest(64)
    spec, (step,) = narrowest(Table(lambda spec: 3.0), widest, 0.5, lambda done, total: None)
    assert spec == widest
    assert step["chosen"] == "does not hold (+3.00)"


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, Path]:
    """Return the folder of a random model that reads bytes, and a text."""
    torch.manual_seed(0)
    softmaxkit.save(
        language_model(Shape(layers=2, heads=2, width=32, initializer_range=0.3), 32, 0), tmp_path / "model"
    )
    text = tmp_path / "text.txt"
    text.write_text("all work and no play makes a dull text. " * 200)
    return tmp_path / "model", text


def test_the_command_writes_specs_and_names_the_next_commands(
    model: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, text = model
    arguments = ["recommend", str(folder), "--text", str(text), "--context", "32", "--no-synth"]
    arguments += ["-o", str(tmp_path / "specs"), "--json", str(tmp_path / "record.json")]
    assert main([*arguments, "--loss", "50%"]) == 0
    shown = capsys.readouterr()
    record = json.loads((tmp_path / "record.json").read_text())
    assert {result["method"] for result in record["results"]} == {
        method.method for method in NARROWING if not method.rival
    }
    for result in record["results"]:
        written = Spec.from_json(Path(result["spec_file"]).read_text())
        assert written == Spec.from_json(result["spec"])
        assert result["holds"]
        assert result["loss_change_percent"] + result["loss_change_standard_error_percent"] <= 50
        assert 0 < result["loss_change_standard_error_percent"] < 50
        assert written != type(written).widest(32)
    assert "is skipped: a model has to be trained for it" in shown.err
    assert f"softmaxkit rtl --spec {record['results'][0]['spec_file']} --max-row 32" in shown.err
    calibrated = tmp_path / "calibrated"
    spec_file = record["results"][0]["spec_file"]
    arguments = ["calibrate", str(folder), "--spec", spec_file, "--text", str(text), "--context", "32"]
    assert main([*arguments, "-o", str(calibrated)]) == 0


def test_a_budget_that_no_spec_meets_shows_the_closest(
    model: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, text = model
    losses = iter([torch.tensor([1.0, 3.0]), torch.tensor([1.0, 4.0])])
    monkeypatch.setattr("softmaxkit.studies.yardsticks.token_losses", lambda *_: next(losses))
    arguments = ["recommend", str(folder), "--text", str(text), "--context", "32", "--no-synth", "--method", "exaq"]
    assert main([*arguments, "--loss", "0", "-o", str(tmp_path / "specs")]) == 1
    assert "no method stays within a budget of 0 on" in (error := capsys.readouterr().err)
    assert "the closest is exaq" in error
    assert "with +25.00" in error


def test_the_standard_error_is_that_of_the_changes_of_tokens() -> None:
    baseline = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    search, spec = Search(SimpleNamespace(baseline=baseline), Path()), softmaxkit.Exaq()  # type: ignore[arg-type]
    search.figures[spec] = baseline + torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert search.standard_error(spec) == pytest.approx(100 * 0.12910 / 2 / 2.5, rel=1e-4)
    search.figures[spec] = baseline.clone()
    assert search.standard_error(spec) is None  # compared with itself
    search.figures[spec] = baseline[:1] + 0.1
    search.yardstick = SimpleNamespace(baseline=baseline[:1])  # type: ignore[assignment]
    assert search.standard_error(spec) is None


def test_finished_methods_are_not_searched_again(
    model: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, text = model
    words = ["recommend", str(folder), "--context", "32", "--no-synth", "--loss", "50", "-o", str(tmp_path / "specs")]
    words += ["--method", "exaq", "--method", "softermax", "--json", str(tmp_path / "record.json")]
    searched: list[str] = []
    allowed = 1

    def search(_: Any, spec: Spec, *rest: Any) -> tuple[Spec, list[Any]]:
        if len(searched) == allowed:
            raise KeyboardInterrupt
        searched.append(spec.method)
        return narrowest(_, spec, *rest)

    monkeypatch.setattr("softmaxkit.studies.recommend.narrowest", search)
    assert main([*words, "--text", str(text)]) == 130
    assert "finished results are kept, and the same command continues" in capsys.readouterr().err
    (tmp_path / "specs" / "exaq.json").unlink()
    allowed = 2
    assert main([*words, "--text", str(text)]) == 0
    assert searched == ["exaq", "softermax"]
    record = json.loads((tmp_path / "record.json").read_text())
    for result in record["results"]:
        assert json.loads(Path(result["spec_file"]).read_text()) == result["spec"]
    allowed = 4
    text.write_text(text.read_text() + "more")
    assert main([*words, "--text", str(text)]) == 0
    assert len(searched) == 4


def test_a_search_continues_within_a_method(
    model: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, text = model
    words = ["recommend", str(folder), "--text", str(text), "--context", "32", "--no-synth", "--method", "exaq"]
    measured: list[Spec] = []
    original, most = Search.put_in, 3

    def put_in(search: Search, spec: Spec) -> None:
        if len(measured) == most:
            raise KeyboardInterrupt
        measured.append(spec)
        original(search, spec)

    def run(place: str) -> int:
        return main([*words, "--loss", "50", "-o", str(tmp_path / place), "--json", str(tmp_path / f"{place}.json")])

    monkeypatch.setattr(Search, "put_in", put_in)
    assert run("stopped") == 130
    most = 100
    assert run("stopped") == 0
    assert len(set(measured)) == len(measured) > 3
    assert run("whole") == 0
    stopped, whole = (json.loads((tmp_path / f"{place}.json").read_text())["results"] for place in ("stopped", "whole"))
    assert stopped[0] | {"spec_file": ""} == whole[0] | {"spec_file": ""}


@pytest.mark.parametrize(
    ("loss", "message"), [("half", "must be a percentage, e.g. 0.5%, got 'half'"), ("-1", "at least 0%")]
)
def test_an_invalid_budget_is_refused(loss: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "model", "--loss", loss]) == 2
    assert message in capsys.readouterr().err


def test_an_encoder_is_measured_on_a_task_of_similarity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32}
    BertModel(BertConfig(vocab_size=320, intermediate_size=64, **sizes)).save_pretrained(tmp_path / "encoder")
    tokenizer = learned_tokens("the film was good and the play was long " * 20, 280)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path / "encoder")
    task = tmp_path / "near.tsv"
    task.write_text("5.000\tthe film\tthe film\n4.500\tthe film was\tthe film\n0.500\tgrim\tthe play was long\n")
    arguments = ["recommend", str(tmp_path / "encoder"), "--task", str(task), "--loss", "200", "--no-synth"]
    assert main([*arguments, "-o", str(tmp_path / "specs"), "--json", str(tmp_path / "record.json")]) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    baseline = record["inputs"]["baseline_spearman_percent"]
    assert baseline <= 100
    for result in record["results"]:
        assert result["change_points"] == pytest.approx(baseline - result["spearman_percent"])
    shown = capsys.readouterr()
    assert "lose at most 200 points of near" in shown.out
    # Without a text, `calibrate` would read Python source.
    assert shown.err.count("softmaxkit calibrate") == shown.err.count(" --text SENTENCES.txt --context") > 0
    assert "SENTENCES.txt is a text of yours: sentences like those of the task" in shown.err
    (tmp_path / "classes.tsv").write_text("1\tgood\n0\tbad\n")
    yardstick = on_task(str(tmp_path / "encoder"), str(task), 16)
    assert yardstick.worse(70.0, 75.0) == 5.0  # points
    longest = max(batch["input_ids"].shape[1] for batch in yardstick.calibration)
    assert yardstick.sample.shape == (1, longest + 1)  # the last token, which a text predicts, is not run
    arguments = ["recommend", str(tmp_path / "encoder"), "--task", str(tmp_path / "classes.tsv"), "--no-synth"]
    assert main([*arguments, "-o", str(tmp_path / "specs")]) == 2
    assert "is a task of classes, for which an encoder has to be trained" in capsys.readouterr().err


def test_specs_are_measured_as_integers_after_calibration() -> None:
    model, tokens = tiny_model("gpt2"), torch.arange(20)[None]
    search = Search(SimpleNamespace(model=model, calibration=[tokens]), Path())  # type: ignore[arg-type]
    for spec in (softmaxkit.Exaq(bits=2), softmaxkit.Softermax(), softmaxkit.Exaq(bits=3)):
        search.put_in(spec)
        modules = softmaxkit.layers(model).values()
        assert all((module.spec, module.mode) == (spec, "integer") for module in modules)
        assert all(bool(module.calibration) == (spec.method == "exaq") for module in modules)


def test_the_baseline_is_narrowed_too() -> None:
    assert type(BASELINE) in NARROWING
