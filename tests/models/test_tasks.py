"""Files of tasks, and the figures of an encoder on them."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from conftest import DATA
from softmaxkit.models.task_evaluation import rank_correlation
from softmaxkit.models.tasks import Example, read_task

PAIRS = [Example("a cat", "the cat", 1), Example('a "dog"', "no", 0)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("test.tsv", '1\ta cat\tthe cat\n0\ta "dog"\tno\n'),
        ("test.tsv", 'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta cat\tthe cat\n0\t9\t9\ta "dog"\tno\n'),
        ("test.tsv", 'sentence1\tsentence2\tlabel\na cat\tthe cat\t1\na "dog"\tno\t0\n'),
        ("test.csv", 'idx,premise,label,hypothesis\n5,a cat,1,the cat\n6,"a ""dog""",0,no\n'),
        (
            "test.jsonl",
            '{"sentence1": "a cat", "sentence2": "the cat", "label": 1}\n\n'
            '{"label": 0, "sentence1": "a \\"dog\\"", "sentence2": "no"}\n',
        ),
    ],
)
def test_columns_are_identified(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_task(str(tmp_path / name)).held_out == tuple(PAIRS)
    task = read_task(str(tmp_path))
    assert (task.held_out, task.train, task.kind, task.classes) == (tuple(PAIRS), (), "classes", 2)


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("0\tbad\n1\tgood\n2\tfair\n")
    (tmp_path / "val.tsv").write_text("2\tso so\n")
    task = read_task(str(tmp_path))
    assert [example.first for example in task.train] == ["bad", "good", "fair"]
    assert task.held_out == (Example("so so", None, 2),)
    assert task.classes == 3
    assert len(task.sampled(2, seed=0).train) == 2
    assert task.sampled(2, seed=0) == task.sampled(2, seed=0)
    (tmp_path / "test.tsv").write_text("1\tfine\n")
    (tmp_path / "test.json").write_text("{}")  # metadata, not a table
    assert read_task(str(tmp_path)).held_out[0].first == "fine"
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.tsv").rename(tmp_path / f"2015-{name}.tsv")
    assert len(read_task(str(tmp_path)).held_out) == 5


def test_fractional_labels_are_similarity_scores(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("4.500\tone\ttwo\n0.000\tthree\tfour\n")
    task = read_task(str(tmp_path / "a.tsv"))
    assert (task.kind, task.classes) == ("similarity", 1)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.tsv": "1\tgood\n"}, "has a train file but none to evaluate on"),
        (
            {"train.tsv": "0\ta\n1\tb\n", "test.tsv": "0\ta\n2\tb\n"},
            "has the label 2 in its held-out examples but not in its training examples, which have 0, 1",
        ),
        ({"test.tsv": "1\ta\n-1\tb\n"}, "has the label -1; classes must be whole numbers from 0"),
        ({"test.tsv": "1\ta\nyes\tb\n"}, r"test.tsv, line 2: the label must be a class from 0 or a score, got 'yes'"),
        ({"test.tsv": "1\ta\n1\n"}, r"test.tsv, line 2, has 1 columns; a task needs a label"),
        ({"test.csv": "idx,label,essay\n1,1,a\n"}, "line 2, has the columns idx, label, essay; a task needs"),
        ({"test.jsonl": '{"label": 1}\n'}, "line 1, has the columns label; a task needs"),
        ({"test.jsonl": "{\n"}, "line 1, is not JSON"),
        ({"test.jsonl": '{"label": 1, "text": "a"}\n7\n'}, "line 2, must be a JSON object, got 7"),
        ({"test.jsonl": '[1, "a"]\n'}, r"line 1, must be a JSON object, got \[1"),
        ({"test.tsv": f"1\t{'a' * 200_000}\n"}, r"cannot read .*test\.tsv: field larger than field limit"),
        ({"train.tsv": "0\ta\n1\tb\n", "test.tsv": "0\ta\tb\n"}, "single sentences in some of its examples and pairs"),
        ({"test.tsv": "0.5\ta\n1.5\tb\n"}, "scores for single sentences; similarity needs pairs"),
        ({"test.tsv": "1\ta\nnan\tb\n"}, "line 2: the label must be a class from 0 or a score, got 'nan'"),
        ({"test.tsv": ""}, "no examples to evaluate on"),
        ({"test.tsv": "1\ta\n", "test.csv": "1,a\n"}, "has both test.csv and test.tsv; keep one of them"),
        ({"notes.md": "x"}, r"has no .tsv, .csv, .jsonl, .json file"),
    ],
)
def test_invalid_tasks_are_refused(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_task(str(tmp_path))


def test_only_a_line_feed_ends_a_line_of_json(tmp_path: Path) -> None:
    texts = [f"one{separator}line" for separator in ("\u2028", "\u2029", "\u0085")]
    lines = [json.dumps({"label": 1, "text": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "test.jsonl").write_text("\r\n".join(lines), encoding="utf-8", newline="")
    assert [example.first for example in read_task(str(tmp_path)).held_out] == texts


def test_a_name_of_neither_a_file_nor_a_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no file or folder no/such-task"):
        read_task("no/such-task")


@pytest.mark.parametrize(
    ("name", "train", "held_out"), [("mrpc", 3576, 1725), ("rte", 3367, 800), ("polarity", 9596, 1066)]
)
def test_shared_tasks(name: str, train: int, held_out: int) -> None:
    folder = DATA / "glue" / name
    if not folder.is_dir():
        pytest.skip(f"no shared data beside the project: {name} is missing")
    task = read_task(str(folder))
    assert (len(task.train), len(task.held_out), task.classes) == (train, held_out, 2)


def test_rank_correlation() -> None:
    # Worked by hand: ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4; their covariance is 4.5, their variances 4.5 and 5.
    assert rank_correlation([1, 5, 5, 9], [0.1, 0.3, 0.2, 7.0]) == pytest.approx(4.5 / np.sqrt(4.5 * 5), rel=1e-12)
    assert rank_correlation([1, 2, 3], [9, 4, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3], [4, 4, 4]) == 0


def test_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"sentence": "fine", "label": 1, "idx": 0}, {"sentence": "poor", "label": 0, "idx": 1}]
    hub = {
        "glue:sst2": {"train": rows, "validation": rows[:1], "test": [{"sentence": "?", "label": -1, "idx": 2}]},
        "some/part": {"train": rows},
        "some/essays": {"train": [{"essay": "x", "label": 1}], "test": rows},
    }
    module = types.ModuleType("datasets")
    module.load_dataset = lambda name, part: hub[f"{name}:{part}" if part else name]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    task = read_task("glue:sst2")
    assert (len(task.train), task.held_out) == (2, (Example("fine", None, 1),))
    with pytest.raises(ValueError, match="the data set some/part: it has the splits train; a task needs train, and"):
        read_task("some/part")
    with pytest.raises(ValueError, match="the data set some/essays: train, line 1, has the columns essay, label"):
        read_task("some/essays")
