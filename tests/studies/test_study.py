"""Studies: configs, their errors, and that finished points are not run again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from softmaxkit import ConSmax, Exact, Exaq
from softmaxkit.models.trainer import Interrupted
from softmaxkit.report.study import picture, render_study, shown, summary
from softmaxkit.studies import options, preparation
from softmaxkit.studies.compare import _over_seeds
from softmaxkit.studies.config import read_study, study_names
from softmaxkit.studies.grid import run_study

pytestmark = pytest.mark.usefixtures("few_tokens")

TITLES = {spec.method: spec.title for spec in (Exact, ConSmax, Exaq)}
SMALL = """
question = "Does it work?"
seeds = [0, 1]
windows = 8
[shape]
layers = 1
heads = 2
width = 16
[recipe]
steps = 4
context = 8
[[methods]]
method = "consmax"
[[methods]]
method = "exaq"
bits = 3
[vary]
"spec.gamma0" = [1.0, 10.0]
"recipe.learning_rate" = [0.001, 0.004]
[picture]
x = "spec.gamma0"
y = "loss_change_percent"
"""


def written(folder: Path, text: str) -> str:
    path = folder / "small.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_study_of_a_pretrained_model(tmp_path: Path) -> None:
    text = SMALL.replace("[shape]\nlayers = 1\nheads = 2\nwidth = 16\n", "").replace("steps = 4\n", "")
    study = read_study(written(tmp_path, 'model = "smollm2"' + text))
    assert study.model == "smollm2"
    assert {(point.recipe.steps, point.recipe.context) for point in study.points} == {(0, 8)}
    with pytest.raises(ValueError, match="the shape of smollm2 is fixed"):
        read_study(written(tmp_path, 'model = "smollm2"' + SMALL))
    with pytest.raises(ValueError, match="a study's model must be a folder, hub name or file, got 3"):
        read_study(written(tmp_path, "model = 3" + text))


def test_a_config_becomes_points(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, SMALL))
    assert (study.name, study.question, study.seeds, study.windows) == ("small", "Does it work?", (0, 1), 8)
    assert [point.spec for point in study.points] == [
        *(ConSmax(gamma0=gamma) for gamma in (1.0, 1.0, 10.0, 10.0)),
        *(Exaq(bits=3),) * 2,  # has no gamma0 to vary
    ]
    assert [point.recipe.learning_rate for point in study.points] == [0.001, 0.004] * 3
    assert study.points[0].settings == {"spec.gamma0": 1.0, "recipe.learning_rate": 0.001}
    assert study.points[-1].settings == {"recipe.learning_rate": 0.004}
    assert {point.shape.width for point in study.points} == {16}


def test_the_built_in_studies_can_be_read() -> None:
    assert "consmax-start" in study_names()
    for name in study_names():
        study = read_study(name)
        assert study.question.endswith("?")
        if study.picture and study.picture["x"] != "step":
            assert any(study.picture["x"] in point.settings for point in study.points)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("question", "qestion", "a study has no 'qestion'; did you mean 'question'"),
        ("question", "#", "a study needs question; this one has none"),
        ("[0, 1]", "[]", r"seeds must be whole numbers from 0, such as \[0, 1, 2\], got \[\]"),
        ("[0, 1]", "[0.5]", r"seeds must be whole numbers from 0"),
        ("layers = 1", "layer = 1", "a shape has no 'layer'; did you mean 'layers'"),
        ("width = 16", 'width = "16"', "shape.width must be of type int, got '16'"),
        ("width = 16", "width = 15", "width a multiple of heads, got"),
        ("windows = 8", "windows = 0", "windows must be a whole number from 1, got 0"),
        ("windows = 8", 'windows = "all"', "windows must be a whole number from 1, got 'all'"),
        ("windows = 8", "windows = true", "windows must be a whole number from 1, got True"),
        ("windows = 8", "finding = 1", "finding must be a text, got 1"),
        ('"Does it work?"', "7", "question must be a text, got 7"),
        ("steps = 4", "steps = -4", "steps, batch, context"),
        ('"spec.gamma0" =', '"spec.gama0" =', "spec.gama0 varies, but none of the methods has this field"),
        ('"spec.gamma0" =', '"gamma0" =', 'settings that vary must be named like "recipe.steps"'),
        ("= [1.0, 10.0]", "= 1.0", "spec.gamma0 must be a list of values, got 1.0"),
        ("bits = 3", "bits = 5", "bits"),
        ('method = "exaq"', 'method = "exact-ish"', "no method is called 'exact-ish'"),
        ("[vary]", "[vary", "small.toml: "),
        ('y = "loss_change_percent"', "", "a picture needs x and y"),
        ('y = "loss_change_percent"', 'y = "loss"', "a picture's y must be one of loss_change_percent, .*, got 'loss'"),
        (
            'x = "spec.gamma0"',
            'x = "gamma0"',
            r"a picture's x must be a setting that varies or step \(spec.gamma0, .*, step\), got 'gamma0'",
        ),
        ("[0, 1]", "[1, 1]", r"each seed must occur only once, got \[1, 1\]"),
    ],
)
def test_a_wrong_config_is_refused(before: str, after: str, message: str, tmp_path: Path) -> None:
    assert before in SMALL
    with pytest.raises(ValueError, match=message):
        read_study(written(tmp_path, SMALL.replace(before, after, 1)))


def test_a_missing_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no study 'consmax-strat'; did you mean 'consmax-start'"):
        read_study("consmax-strat")
    with pytest.raises(ValueError, match="cannot read the study"):
        read_study(str(tmp_path / "missing.toml"))


def run(folder: Path, config: str, stage: Any = lambda title: lambda done, total: None) -> dict[str, Any]:
    (folder / "text.txt").write_text("to be or not to be, that is the question. " * 100)
    return run_study(read_study(config), folder / "text.txt", folder / "runs", None, ["a", "command"], stage)


def test_points_are_compared_with_exact_softmax_after_the_same_training(tmp_path: Path) -> None:
    config = written(tmp_path, SMALL)
    record = run(tmp_path, config)
    results = record["results"]
    # Two seeds and two learning rates, each with exact softmax, two ConSmax points and one EXAQ point, in two modes.
    assert len(results) == 2 * 2 * 4 * 2
    for result in results:
        exact = next(
            other
            for other in results
            if (other["method"], other["mode"], other["seed"]) == ("exact", "float", result["seed"])
            and other["settings"]["recipe.learning_rate"] == result["settings"]["recipe.learning_rate"]
        )
        assert result["loss_change_percent"] == pytest.approx(100 * (result["loss_nats"] / exact["loss_nats"] - 1))
    curve = next(result for result in results if result["method"] == "consmax")["series"]["training"]
    assert len(curve["constants"]) == len(curve["held_out_step"]) == 4

    titles: list[str] = []
    again = run(tmp_path, config, lambda title: titles.append(title) or (lambda done, total: None))  # type: ignore[func-returns-value]
    assert titles == []
    assert again == record

    of_seeds = summary(results, "loss_nats")
    assert [group["seeds"] for group in of_seeds] == [2] * 16
    first = [result["loss_nats"] for result in results if result["method"] == "exact" and result["mode"] == "float"]
    assert of_seeds[0]["mean"] == pytest.approx((first[0] + first[2]) / 2)
    assert of_seeds[0]["spread"] == pytest.approx(abs(first[0] - first[2]) / math.sqrt(2))

    page = render_study(record)
    assert "Does it work?" in page
    assert page.count("<tr>") > 16
    drawn = picture(results, record["inputs"]["picture"], TITLES)
    assert sorted({trace.name for trace in drawn.data}) == [
        "ConSmax learning_rate 0.001",
        "ConSmax learning_rate 0.004",
    ]
    assert "ConSmax learning_rate 0.001" in page
    assert "consmax learning_rate" not in page
    assert list(drawn.data[0].x) == [1.0, 10.0]
    steps = picture(results, {"x": "step", "y": "loss_change_percent"}, TITLES)
    assert {trace.name.split()[0] for trace in steps.data} <= {*TITLES.values()}
    assert list(steps.data[0].x) == [1, 2, 3, 4]


def test_pictures_of_magnitudes_of_zeros_and_of_methods_without_the_setting() -> None:
    def result(settings: dict[str, Any], change: float) -> dict[str, Any]:
        about = {"method": "consmax", "variant": "", "mode": "integer", "seed": 0}
        return {**about, "settings": settings, "loss_change_percent": change}

    config = {"x": "spec.gamma0", "y": "loss_change_percent"}
    results = [result({"spec.gamma0": value}, value) for value in (100.0, 3.0)]
    assert picture(results, config, TITLES).layout.xaxis.type == "log"
    results = [*results, result({"spec.gamma0": 0.0}, 2.0), result({"spec.tables": "whole"}, 7.0)]
    drawn = picture(results, config, TITLES)
    assert (drawn.layout.xaxis.type, drawn.layout.xaxis.categoryarray) == ("category", (0.0, 3.0, 100.0))
    level = next(trace for trace in drawn.data if "whole" in trace.name)
    assert (list(level.x), list(level.y)) == ([0.0, 3.0, 100.0], [7.0, 7.0, 7.0])


def test_a_point_that_diverges_is_recorded_and_the_others_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = preparation.train

    def train(model: Any, corpus: Any, recipe: Any, folder: Path, *rest: Any) -> Any:
        if "consmax" in folder.name and recipe.learning_rate == 0.004:
            raise FloatingPointError("training diverged: the loss is nan")
        return trained(model, corpus, recipe, folder, *rest)

    monkeypatch.setattr(preparation, "train", train)
    record = run(tmp_path, written(tmp_path, SMALL.replace("[0, 1]", "[0]")))
    diverged = [result for result in record["results"] if "diverged" in result]
    assert [result["settings"]["spec.gamma0"] for result in diverged] == [1.0, 1.0, 10.0, 10.0]
    assert all("loss_nats" not in result for result in diverged)
    assert len(record["results"]) == 16
    assert "1 of 1 diverged" in render_study(record)
    json.dumps(record, allow_nan=False)


@pytest.mark.slow
def test_a_text_is_read_once_for_every_context_and_number_of_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_corpus = options.read_corpus
    reads: list[int] = []

    def counting(text: Any, tokenizer: Any = None, learned: int = 0) -> Any:
        reads.append(learned)
        return read_corpus(text, tokenizer, learned)

    monkeypatch.setattr(options, "read_corpus", counting)
    config = SMALL.replace('"recipe.learning_rate" = [0.001, 0.004]', '"recipe.context" = [8, 16]')
    run(tmp_path, written(tmp_path, config))
    assert reads == [256, 256]


def test_every_text_is_read_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "train", lambda *_: pytest.fail("trained, though the text is too short"))
    config = SMALL.replace('"recipe.learning_rate" = [0.001, 0.004]', '"recipe.context" = [8, 4096]')
    with pytest.raises(ValueError, match=r"a context of 4096 needs 4097; give a longer text"):
        run(tmp_path, written(tmp_path, config))


def test_an_interrupted_study_keeps_finished_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = preparation.train
    trainings: list[str] = []

    def train(model: Any, corpus: Any, recipe: Any, folder: Path, *rest: Any) -> Any:
        trainings.append(folder.name)
        if len(trainings) == 3:
            raise Interrupted("stopped")
        return trained(model, corpus, recipe, folder, *rest)

    monkeypatch.setattr(preparation, "train", train)
    config = written(tmp_path, SMALL.replace("[0, 1]", "[0]"))
    with pytest.raises(Interrupted):
        run(tmp_path, config)
    run(tmp_path, config)
    assert len(trainings) == len(set(trainings)) + 1  # one was interrupted
    assert Exact().method in trainings[0]


def test_diverged_seeds_are_counted_next_to_the_mean_of_the_others() -> None:
    results = [
        {
            "method": "consmax",
            "variant": "",
            "mode": "integer",
            "settings": {"recipe.steps": 4},
            "seed": seed,
            **figures,
        }
        for seed, figures in enumerate([{"loss_nats": 2.0}, {"diverged": "the loss is nan"}, {"loss_nats": 4.0}])
    ]
    (group,) = summary(results, "loss_nats")
    assert shown(group, 2) == "3.00 ± 1.41 (1 of 3 diverged)"
    assert picture(results, {"x": "recipe.steps", "y": "loss_nats"}, TITLES) is None


def test_a_conversion_is_compared_with_softmax_after_equal_steps(tmp_path: Path) -> None:
    config = SMALL.replace("[0, 1]", "[0]").replace("context = 8", "context = 8\nconversion_steps = 3\nhomotopy = 0.5")
    config = config.replace('"recipe.learning_rate" = [0.001, 0.004]', '"recipe.key_fit" = [false, true]')
    titles: list[str] = []
    record = run(tmp_path, written(tmp_path, config), lambda title: titles.append(title) or (lambda done, total: None))  # type: ignore[func-returns-value]
    assert titles.count("train exact, from scratch") == 1
    assert titles.count("convert exact to exact") == 1
    assert len([title for title in titles if title.startswith("convert exact to consmax")]) == 4
    assert {result["trained_steps"] for result in record["results"]} == {4 + 3}
    losses = {str(r["settings"]): r["loss_nats"] for r in record["results"] if r["method"] == "consmax"}
    # gamma is set from the model's own scores, regardless of its start value.
    assert len(losses) == 4
    assert len(set(losses.values())) == 2


@pytest.mark.slow
def test_parallel_seeds_equal_sequential_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # `few_tokens` reaches this process alone
    text = SMALL[: SMALL.index("[vary]")] + SMALL[SMALL.index("[picture]") :].replace("spec.gamma0", "step")
    study = read_study(written(tmp_path, text))
    records = [run_study(study, None, tmp_path / str(jobs), None, [], say_nothing, jobs) for jobs in (1, 2)]
    assert [x["loss_nats"] for x in records[0]["results"]] == [x["loss_nats"] for x in records[1]["results"]]


def say_nothing(title: str) -> Any:
    return print_nothing


def print_nothing(done: int, total: int) -> None:
    pass


@pytest.mark.parametrize("key", ["seeds", "shape", "recipe", "vary", "picture"])
@pytest.mark.parametrize("value", ["3", '"x"', "true", "nan"])
def test_entries_of_a_wrong_kind_are_named(key: str, value: str, tmp_path: Path) -> None:
    study = tmp_path / "mine.toml"
    study.write_text(f'question = "?"\n{key} = {value}\n[[methods]]\nmethod = "exact"\n')
    with pytest.raises(ValueError, match=rf"mine\.toml: {key} must be a (list|table), got"):
        read_study(str(study))


@pytest.mark.parametrize("value", ["3", '"exact"', '["exact"]', "[1]"])
def test_methods_are_tables(value: str, tmp_path: Path) -> None:
    study = tmp_path / "mine.toml"
    study.write_text(f'question = "?"\nmethods = {value}\n')
    with pytest.raises(ValueError, match=r"mine\.toml: methods must be"):
        read_study(str(study))


def test_a_loss_that_was_not_finite_is_left_out_of_a_curve() -> None:
    def result(method: str, losses: list[float | None]) -> dict[str, Any]:
        training = {"held_out_step": [1, 2, 3], "held_out_loss_nats": losses}
        return {"method": method, "variant": "", "seed": 0, "settings": {}, "series": {"training": training}}

    results = [result("exact", [2.0, None, 1.0]), result("consmax", [None, 3.0, 1.5])]
    (line,) = picture(results, {"x": "step", "y": "loss_change_percent"}, TITLES).data
    assert (list(line.x), list(line.y)) == ([3], [50.0])


def test_over_seeds_a_perplexity_that_overflows_has_no_mean() -> None:
    of_seeds = [{"loss_nats": 2.0, "perplexity": 7.0}, {"loss_nats": 800.0, "perplexity": None}]
    merged = _over_seeds(of_seeds, 0)
    assert (merged["loss_nats"], merged["perplexity"]) == (401.0, None)
    assert "perplexity_spread" not in merged
