"""Tables of docs/accuracy.md, cell by cell against the records that they name."""

from __future__ import annotations

from statistics import mean, stdev
from typing import Any

from doc_tables import ROOT, results, rows, wrong
from softmaxkit.studies.config import read_study

PAGE = "docs/accuracy.md"


def change(value: float, digits: int = 2) -> str:
    """Return a change in percent as the tables print it: with its sign, or without one if it is 0 as printed."""
    text = f"{value:+.{digits}f}%"
    return text if float(text.strip("%")) else f"{0:.{digits}f}%"


def test_the_sign_of_a_change() -> None:
    assert [change(value) for value in (0.567, -0.009, -0.001, 0.0)] == ["+0.57%", "-0.01%", "0.00%", "0.00%"]
    assert change(614.4, 0) == "+614%"


def measured(record: str, method: str, variant: str, mode: str) -> list[dict[str, Any]]:
    """Return the results of a method in a record."""
    return [r for r in results(record) if (r["method"], r["variant"], r["mode"]) == (method, variant, mode)]


TASK_METHODS = {
    "Exact, FP16": ("exact", "", ""),
    "Softermax, log2(e) folded, only calibrated": ("softermax", "log2e=True", "calibrated"),
    "Softermax, log2(e) folded, fine-tuned": ("softermax", "log2e=True", "fine-tuned"),
    "Softermax, base 2, fine-tuned": ("softermax", "", "fine-tuned"),
    "EXAQ 3 bits, searched clip": ("exaq", "3 bits, searched clip", "calibrated"),
    "EXAQ 3 bits, the paper's clip": ("exaq", "3 bits, gaussian clip", "calibrated"),
    "EXAQ 2 bits, searched clip": ("exaq", "2 bits, searched clip", "calibrated"),
    "EXAQ 2 bits, NAIVE": ("exaq", "2 bits, naive clip", "calibrated"),
}


def task_changes(records: tuple[str, ...], label: str) -> list[float]:
    """Return the changes of a task's accuracy in integers, by seed; none if the method was not run on it."""
    method, variant, trained = TASK_METHODS[label]
    by_seed = {
        r["seed"]: r["change_points"]
        for name in records
        for r in measured(f"tasks/{name}.json", method, variant, "integer")
        if trained in ("", r["trained"])
    }
    return [by_seed[seed] for seed in sorted(by_seed)]


def test_fine_tuned_encoders() -> None:
    table = rows(PAGE, "| method | polarity, points |")
    assert len(table) == len(TASK_METHODS)
    for label, *cells in table:
        for records, spread, worst in ((("polarity",), *cells[:2]), (("mrpc", "mrpc-fine-tuned"), *cells[2:])):
            changes = task_changes(records, label)
            assert len(changes) == (3 if worst else 0), label
            if changes:
                assert spread == f"{mean(changes):+.2f} ± {stdev(changes):.2f}", label
                assert worst == f"{min(changes):.2f}", label


def test_the_baselines_of_encoders() -> None:
    text = " ".join((ROOT / PAGE).read_text(encoding="utf-8").split())
    for task in ("polarity", "mrpc"):
        accuracies = [
            r["accuracy_percent"]
            for r in results(f"tasks/{task}.json")
            if (r["method"], r["mode"]) == ("exact", "float")
        ]
        name = "MRPC" if task == "mrpc" else task
        assert f"{mean(accuracies):.2f} ± {stdev(accuracies):.2f}% ({name})" in text


def test_the_demo() -> None:
    table = rows(PAGE, "| method | how the model got it |")
    measured_here = results("toy/python.json")
    assert len(table) == len(measured_here) / 2
    for (label, how, *cells), floating, integer in zip(table, measured_here[::2], measured_here[1::2], strict=True):
        method = {"consmax": "ConSmax"}.get(floating["method"], floating["method"].capitalize())
        is_shift = floating["variant"] == "tables=shift"
        variant = "with a shift in place of the multiplier" if is_shift else floating["variant"]
        assert label == f"{method} {variant}".strip()
        assert how == ("the same model" if is_shift else floating["training_description"])
        losses = [f"{result['loss_nats']:.4f}" for result in (floating, integer)]
        assert cells == [*losses, change(integer["loss_change_percent"])], label


SHAKESPEARE = {
    "ConSmax": ("consmax", ""),
    "Softermax": ("softermax", ""),
    "EXAQ 3 bits, searched clip": ("exaq", "3 bits, searched clip"),
    "EXAQ 3 bits, the paper's clip": ("exaq", "3 bits, gaussian clip"),
    "EXAQ 3 bits, NAIVE": ("exaq", "3 bits, naive clip"),
}


def test_the_demo_on_shakespeare() -> None:
    table = rows(PAGE, "| method | change, integers | with")
    assert [label for label, *_ in table] == [*SHAKESPEARE]
    records = ("toy/tinyshakespeare.json", "toy/tinyshakespeare-seed-1.json")
    for label, *cells in table:
        runs = [measured(record, *SHAKESPEARE[label], "integer") for record in records]
        assert cells == [change(result["loss_change_percent"]) for (result,) in runs], label
    text = " ".join((ROOT / PAGE).read_text(encoding="utf-8").split())
    assert f"gives exact softmax {results(records[0])[0]['loss_nats']:.4f} nats" in text
    (consmax,) = measured(records[0], "consmax", "", "integer")
    assert f"from scratch with the 1400 steps is {consmax['loss_change_percent']:.2f}% behind" in text


SIMILARITY_METHODS = {
    "exact softmax in float": ("exact", "", "float"),
    "Exact, FP16": ("exact", "", "integer"),
    "ConSmax, converted by calibration alone": ("consmax", "", "integer"),
    "Softermax, base 2": ("softermax", "", "integer"),
    "Softermax, log2(e) folded": ("softermax", "log2e=True", "integer"),
    "EXAQ 3 bits, searched clip": ("exaq", "3 bits, searched clip", "integer"),
    "EXAQ 3 bits, the paper's clip": ("exaq", "3 bits, gaussian clip", "integer"),
    "EXAQ 2 bits, searched clip": ("exaq", "2 bits, searched clip", "integer"),
    "EXAQ 2 bits, the paper's clip": ("exaq", "2 bits, gaussian clip", "integer"),
    "EXAQ 2 bits, NAIVE": ("exaq", "2 bits, naive clip", "integer"),
}
SIMILARITY_TASKS = ("2015-headlines.test", "2014-images.test", "2012-MSRpar.train", "2014-OnWN.test")


def test_similarity() -> None:
    table = rows(PAGE, "| rank correlation, % | 2015 headlines | 2014 images | 2012 MSRpar | 2014 OnWN |")
    assert [label for label, *_ in table] == [*SIMILARITY_METHODS]
    for label, *cells, average in table:
        by_task = {r["task"]: r for r in measured("tasks/sts.json", *SIMILARITY_METHODS[label])}
        assert wrong(cells, [by_task[task]["spearman_percent"] for task in SIMILARITY_TASKS]) == [], label
        changes = mean(by_task[task]["change_points"] for task in SIMILARITY_TASKS)
        assert average == ("" if label.endswith("in float") else change(changes, 1).strip("%")), label


ROW_LENGTH_METHODS = {
    "exact softmax in float, nats": ("exact", "", "float"),
    "Exact, FP16": ("exact", "", "integer"),
    "Softermax, the paper's formats": ("softermax", "log2e=True", "integer"),
    "Softermax, output UQ(1,11), sum UQ(13,6)": (
        "softermax",
        "power_sum=UQ(13,6), output=UQ(1,11), log2e=True",
        "integer",
    ),
    "EXAQ 3 bits, 16-bit outputs, clip by the output, of each head": (
        "exaq",
        "3 bits, output clip, scores=Q(6,4), scale=calibrated, share=head",
        "integer",
    ),
}


def row_sums(result: dict[str, Any], digits: int) -> str:
    least, most = (f"{result[f'row_sum_{end}']:.{digits}f}" for end in ("min", "max"))
    return f"{least if float(least) else 0} to {most}"


def test_long_rows() -> None:
    table = rows(PAGE, "| loss change, integers | up to 256 keys |")
    assert [label for label, *_ in table] == [*ROW_LENGTH_METHODS]
    for label, *cells, sums in table:
        by_context = {
            r["settings"]["recipe.context"]: r
            for r in measured("studies/row-length-smollm2.json", *ROW_LENGTH_METHODS[label])
        }
        short, middle, long = (by_context[context] for context in (256, 1024, 4096))
        if label.endswith("nats"):
            assert cells == [f"{r['loss_nats']:.4f}" for r in (short, middle, long)]
            assert sums == "1"
        else:
            assert wrong(cells, [r["loss_change_percent"] for r in (short, middle, long)]) == [], label
            assert sums == row_sums(long, 2), label


RIVALS = {
    "Exact, 64 lines (default)": ("exact", ""),
    "Exact, one line": ("exact", "exponential_segments=1"),
    "Exact, Taylor series of degree 1": ("exact", "exponential_segments=1, taylor_degree=1"),
    "Exact, Taylor series of degree 2": ("exact", "exponential_segments=1, taylor_degree=2"),
    "IndexSoftmax": ("index", ""),
    "Sigmoid attention, bias fitted to the rows": ("sigmoid", "bias=fitted"),
}
GATES = {
    "Exact, 64 lines (default)": "silicon/sky130.json",
    "Exact, one line": "rivals/exact-lines-1.json",
    "Exact, Taylor series of degree 1": "rivals/exact-taylor-1.json",
    "Exact, Taylor series of degree 2": "rivals/exact-taylor-2.json",
    "IndexSoftmax": "rivals/index.json",
    "Sigmoid attention, bias fitted to the rows": "rivals/sigmoid.json",
}
"""The record of a rival's unit, which is its first result."""


def test_rivals() -> None:
    table = rows(PAGE, "| | loss change, float | loss change, integers | row sums |")
    assert [label for label, *_ in table] == [*RIVALS]
    for label, *changes, sums, area, energy in table:
        by_mode = {r["mode"]: r for r in results("rivals/smollm2.json") if (r["method"], r["variant"]) == RIVALS[label]}
        digits = 0 if "Sigmoid" in label else 2
        assert changes == [change(by_mode[mode]["loss_change_percent"], digits) for mode in ("float", "integer")]
        assert sums == row_sums(by_mode["integer"], digits), label
        unit = results(GATES[label])[0]
        figures = [unit["area_datapath_um2"], unit["energy_without_row_buffer_pj_per_element"]]
        assert wrong([area, energy], figures) == [], label


def behind(step: int) -> float:
    """Return how far the training curve of ConSmax is behind that of exact softmax at a step, in percent."""
    losses = {}
    for result in results("studies/paper-size.json"):
        curve = result["series"].get("training")
        if curve:
            losses[result["method"]] = curve["held_out_loss_nats"][curve["held_out_step"].index(step)]
    return float(100 * (losses["consmax"] / losses["exact"] - 1))


def test_training_at_the_paper_size() -> None:
    cells, (_, *paper) = rows(PAGE, "| ConSmax behind exact softmax, training curve | 3,000 steps | 5,000 | 10,000 |")
    picture = read_study("paper-size").picture
    assert picture["published_x"] == [3_000, 5_000, 10_000]
    assert wrong(paper, picture["published_y"]) == []
    label, early, middle, late = cells
    assert label == "ours, Python source"
    assert wrong([early, middle], [behind(3_000), behind(5_000)]) == []
    assert late == f"level ({behind(10_000):.2f}%)"


def changes_of(record: str, method: str, variant: str = "", **settings: Any) -> list[float]:
    """Return the changes of the loss of one entry of a record in integers, by seed, in percent."""
    return [
        r["loss_change_percent"]
        for r in measured(f"{record}.json", method, variant, "integer")
        if settings.items() <= {key.split(".")[1]: value for key, value in r.get("settings", {}).items()}.items()
    ]


def test_the_answers_in_brief() -> None:
    """Only answers with figures; their records are those of the sections that they name."""
    answers = {question: answer for question, answer, _ in rows(PAGE, "| question | answer | where |")}
    length, paper, wide = "studies/row-length-smollm2", "log2e=True", "power_sum=UQ(13,6), output=UQ(1,11), log2e=True"
    (at_1k,), (at_4k,) = (changes_of(length, "softermax", paper, context=n) for n in (1024, 4096))
    (widened,) = changes_of(length, "softermax", wide, context=4096)
    rows_answer = answers["Do the paper's Softermax formats hold long rows?"]
    assert f"{at_1k:+.2f}% at 1,024 keys and {at_4k:+.1f}% at 4,096" in rows_answer
    assert f"{widened:+.2f}% at 4,096" in rows_answer

    clip = "clip, scores=Q(6,4), scale=calibrated, share=head"
    for bits in (2, 3):
        small = mean(changes_of("studies/exaq-bits", "exaq", f"{bits} bits, searched clip"))
        (real,) = changes_of("smollm2/compare", "exaq", f"{bits} bits, output {clip}")
        said = (
            f"{small:.1f}% on the small GPT and {real:.1f}% on SmolLM2"
            if bits == 3
            else f"{small:.1f}% and {real:.1f}%"
        )
        assert f"{bits} bits cost {said}" in answers["How many bits does EXAQ need?"]

    (converted,) = changes_of("studies/consmax-conversion", "consmax", homotopy=0.0, key_fit=True)
    assert f"The small GPT yes, {converted:.2f}% behind" in answers["Can a trained model be converted to ConSmax?"]
    budget = changes_of("studies/consmax-budget", "consmax")
    (at_paper_size,) = changes_of("studies/paper-size", "consmax")
    scratch = answers["How far is ConSmax from softmax, trained from scratch?"]
    assert f"{mean(budget):.1f} ± {stdev(budget):.1f}% after 10,000 steps" in scratch
    assert f"{at_paper_size:.2f}% at the paper's size" in scratch
    (line,) = changes_of("studies/exponentials", "exact", "exponential_segments=1")
    assert f"moves the loss by {abs(line):.2f}%" in answers["How good must the exponential be?"]
