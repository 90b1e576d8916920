"""Tables of README and docs/speed.md, cell by cell against the records that they name."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doc_tables import ROOT, results, rows, shows, wrong
from softmaxkit import BF16, FP16, UQ, ConSmax
from softmaxkit.cli import main
from softmaxkit.kernels.backends import native

SHAPES = ([12, 1024, 1024, 64], [12, 1, 32768, 64], [32, 1, 32768, 128, 8])
CONTENDERS = {
    "torch, float32": ("torch", "", ""),
    "torch, bfloat16": ("torch", "bfloat16", ""),
    "torch, float16": ("torch", "float16", ""),
    "exact": ("exact", "", ""),
    "exact, bfloat16": ("exact", "", "", "bfloat16"),
    "exact, 8-bit cache": ("exact", "", "8-bit cache"),
    "exact, 4-bit cache": ("exact", "", "4-bit cache"),
    "ConSmax": ("consmax", "", ""),
    "ConSmax, bfloat16": ("consmax", "", "", "bfloat16"),
    "ConSmax, 8-bit cache": ("consmax", "", "8-bit cache"),
    "ConSmax, 4-bit cache": ("consmax", "", "4-bit cache"),
    "EXAQ, 2 bits": ("exaq", "2 bits, gaussian clip", ""),
    "EXAQ, 2 bits, bfloat16": ("exaq", "2 bits, gaussian clip", "", "bfloat16"),
    "EXAQ, 2 bits, 8-bit cache": ("exaq", "2 bits, gaussian clip", "8-bit cache"),
    "EXAQ, 2 bits, 4-bit cache": ("exaq", "2 bits, gaussian clip", "4-bit cache"),
    "EXAQ, 4 bits": ("exaq", "4 bits, gaussian clip", ""),
    "EXAQ, 4 bits, 8-bit cache": ("exaq", "4 bits, gaussian clip", "8-bit cache"),
    "EXAQ, 4 bits, 4-bit cache": ("exaq", "4 bits, gaussian clip", "4-bit cache"),
    "Sigmoid": ("sigmoid", "", ""),
    "Sigmoid, bfloat16": ("sigmoid", "", "", "bfloat16"),
    "Sigmoid, 8-bit cache": ("sigmoid", "", "8-bit cache"),
    "Sigmoid, 4-bit cache": ("sigmoid", "", "4-bit cache"),
    "IndexSoftmax": ("index", "", ""),
    "IndexSoftmax, bfloat16": ("index", "", "", "bfloat16"),
    "IndexSoftmax, 8-bit cache": ("index", "", "8-bit cache"),
    "IndexSoftmax, 4-bit cache": ("index", "", "4-bit cache"),
}
MACHINES = {
    "xeon": "Intel Xeon with AVX-512, without AMX",
    "xeon-rivals": "Intel Xeon with AVX-512, without AMX",
    "xeon-float16": "Intel Xeon with AVX-512, without AMX",
    "epyc": "AMD EPYC",
    "epyc-zen3": "AVX2",
}
"""The sections of docs/speed.md, by the record that they show."""


def test_a_cell_shows_its_value() -> None:
    assert shows("1,748", 1747.6)
    assert shows("3.7%", 3.746)
    assert not shows("3.8", 3.746)


def times(record: str, label: str, dtype: str = "float32") -> list[dict[str, Any] | None]:
    """Return a contender's results of one thread, in the order of `SHAPES`."""
    method, variant, storage, *in_bfloat16 = CONTENDERS[label]
    dtype = in_bfloat16[0] if in_bfloat16 else dtype
    by_shape = {
        tuple(r["shape"]): r
        for r in results(record)
        if (r["method"], r.get("variant", ""), r.get("storage", ""), r["threads"]) == (method, variant, storage, 1)
        and r["dtype"] == dtype
    }
    return [by_shape.get(tuple(shape)) for shape in SHAPES]


def milliseconds(result: dict[str, Any] | None) -> str:
    return f"{1e3 * result['seconds']:.1f}" if result else ""


def test_attention_in_the_readme() -> None:
    table = rows("README.md", "| | Xeon")
    assert len(table) >= 7
    for label, *cells in table:
        shown = [*times("speed/xeon.json", label), *times("speed/epyc.json", label)]
        assert cells == [milliseconds(result) for result in shown], label


@pytest.mark.parametrize(
    ("record", "head", "count"),
    [
        ("xeon", "| | 12 heads", 17),
        ("xeon-rivals", "| of rivals | 12 heads", 10),
        ("epyc", "| | 12 heads", 13),
        ("epyc-zen3", "| | 12 heads", 17),
    ],
)
def test_attention_in_the_docs(record: str, head: str, count: int) -> None:
    table = rows("docs/speed.md", f"{head}, 1,024 queries", MACHINES[record])
    over = "speedup_over_torch_bfloat16" if record.startswith("xeon") else "speedup_over_torch"
    for label, *cells in table:
        for cell, result in zip(cells, times(f"speed/{record}.json", label), strict=True):
            assert bool(cell) == (result is not None)
            if result is not None:
                time, ratio = cell.strip(")").split(" (")
                assert time == milliseconds(result), label
                digits = len(ratio.partition(".")[2])
                assert float(ratio) == round(result[over], digits), label
    assert len(table) == count


def test_attention_in_float16_in_the_docs() -> None:
    table = rows("docs/speed.md", "| in float16 |")
    for label, *cells in table:
        for cell, result in zip(cells, times("speed/xeon-float16.json", label, "float16"), strict=True):
            assert bool(cell) == (result is not None)
            if result is not None:
                time, *ratios = cell.strip(")").replace(" (", ", ").split(", ")
                assert time == milliseconds(result), label
                for ratio, over in zip(ratios, ("float16", "bfloat16"), strict=True):
                    assert float(ratio) == round(result[f"speedup_over_torch_{over}"], len(ratio.partition(".")[2]))
    assert len(table) == 15


def test_the_builds_in_the_docs() -> None:
    table = rows("docs/speed.md", "| build |")
    decoding = ("torch, bfloat16", "EXAQ, 2 bits, 8-bit cache")
    for build, *cells in table:
        record = "speed/xeon.json" if build == "avx512" else f"speed/xeon-{build}.json"
        assert json.loads((ROOT / "results" / record).read_text())["inputs"]["kernels"] == build
        prompts = ("torch, float32", "torch, bfloat16", "exact, bfloat16", "ConSmax", "EXAQ, 2 bits")
        shown = [times(record, label)[0] for label in prompts] + [times(record, label)[1] for label in decoding]
        assert cells == [milliseconds(result) for result in shown], build
    assert len(table) == 5


def test_whole_models_in_the_docs() -> None:
    table = rows("docs/speed.md", "| | tokens read per second")
    records = ("smollm2", "smollm2-xeon", "smollm2-heads-xeon")
    measured = [result for record in records for result in results(f"speed/{record}.json")]
    assert len(table) == len(measured)
    for (label, *cells), result in zip(table, measured, strict=True):
        expected = [f"{result['prompt_tokens_per_second']:.0f}"]
        for verb in ("prompt", "generated"):
            if verb == "generated":
                expected.append(f"{result['generated_tokens_per_second']:.1f}")
            own = result["variant"] if result["method"] == "torch" and "storage" not in result else ""
            for dtype in ("float32", "bfloat16"):
                ratio = result[f"{verb}_speedup_over_{dtype}"]
                expected.append("1" if dtype == own else f"{ratio:.2f}")
        change = result.get("loss_change_from_float_percent")
        loss = f"{result['loss_nats']:.4f}" if "loss_nats" in result else ""
        expected += [loss, "" if change is None else f"{change:.2f}%"]
        assert cells == expected, label


def test_a_real_language_model_in_the_readme() -> None:
    table = rows("README.md", "| method | formats |")
    measured = results("smollm2/compare.json")
    pairs = list(zip(measured[::2], measured[1::2], strict=True))
    assert len(table) == len(pairs)
    for (*_, floating, integers, words), (in_float, in_integers) in zip(table, pairs, strict=True):
        assert (in_float["mode"], in_integers["mode"]) == ("float", "integer")
        changes = [float(cell.strip("%")) for cell in (floating, integers)]
        assert changes == [round(r["loss_change_percent"], 2) for r in (in_float, in_integers)]
        assert words == f"{in_integers['words_right_percent']:.2f}%"


ROW_SHAPES = ([4096, 128], [4096, 1024], [1024, 4096], [256, 32768], [64, 131072])
ROW_CONTENDERS = {
    "exact": ("exact", "", ""),
    "ConSmax": ("consmax", "", ""),
    "EXAQ, 2 bits": ("exaq", "2 bits, gaussian clip", ""),
    "EXAQ, 2 bits, packed codes": ("exaq", "2 bits, gaussian clip", "packed codes"),
    "EXAQ, 4 bits": ("exaq", "4 bits, gaussian clip", ""),
    "EXAQ, 4 bits, packed codes": ("exaq", "4 bits, gaussian clip", "packed codes"),
    "torch, compiled": ("torch, compiled", "", ""),
    "Softermax": ("softermax", "", ""),
    "Sigmoid": ("sigmoid", "", ""),
    "IndexSoftmax": ("index", "", ""),
}


@pytest.mark.parametrize(
    ("record", "head", "count"),
    [
        ("xeon", "| float32 rows", 7),
        ("xeon", "| bfloat16 rows", 7),
        ("xeon-float16", "| float16 rows", 7),
        ("xeon-rivals", "| float rows of float32", 4),
        ("xeon-rivals", "| float rows of bfloat16", 4),
        ("epyc", "| float32 rows", 7),
        ("epyc", "| bfloat16 rows", 7),
        ("epyc-zen3", "| float32 rows", 7),
        ("epyc-zen3", "| bfloat16 rows", 7),
    ],
)
def test_rows_in_the_docs(record: str, head: str, count: int) -> None:
    table = rows("docs/speed.md", head, MACHINES[record])
    (dtype,) = {"float32", "bfloat16", "float16"}.intersection(head.split())
    assert len(table) == count
    for label, *cells in table:
        for cell, shape in zip(cells, ROW_SHAPES, strict=True):
            (result,) = (
                r
                for r in results(f"speed/{record}.json")
                if (r["method"], r.get("variant", ""), r.get("storage", "")) == ROW_CONTENDERS[label]
                and (r["shape"], r["threads"], r.get("mode", "float")) == (shape, 1, "float")
                and r["dtype"] == dtype
            )
            into, new = cell.split(" / ")
            assert shows(into, result["speedup_over_torch"]), (record, label, shape)
            assert shows(new, result["speedup_over_torch_new_memory"]), (record, label, shape)


CARD_CONTENDERS = {
    "**ConSmax, element by element**": ("consmax", "triton"),
    "ConSmax by FlexAttention's log-sum": ("consmax", "flex"),
    "**EXAQ, 2 bits**": ("exaq", "triton"),
    "exact: FlexAttention": ("torch", "FlexAttention"),
    "exact: torch's flash (FlashAttention-2)": ("torch", "scaled_dot_product_attention, flash"),
    "exact: torch's cuDNN": ("torch", "scaled_dot_product_attention, cuDNN"),
    "Exact": ("exact", "triton"),
    "ConSmax": ("consmax", "triton"),
    "Softermax": ("softermax", "triton"),
    "EXAQ, 2 bits": ("exaq", "triton"),
    "torch.softmax": ("torch", "eager"),
    "torch.softmax, compiled": ("torch", "compiled"),
}


def on_the_card(kind: str, label: str) -> list[dict[str, Any]]:
    """Return a contender's results in floats on the H200, in the order of the record, which is that of the tables."""
    return [
        r
        for r in results("speed/h200.json")
        if (r["kind"], r["method"], r["backend"], r.get("mode", "float")) == (kind, *CARD_CONTENDERS[label], "float")
        and r.get("variant", "") in ("", "2 bits, gaussian clip")
    ]


def test_attention_on_a_card_in_the_docs() -> None:
    table = rows("docs/speed.md", "| TFLOP/s |")
    assert len(table) == 6
    for label, *cells in table:
        values = [r["tflops"] for r in on_the_card("attention", label)]
        assert all(shows(cell, value) for cell, value in zip(cells, values, strict=True)), (label, values)


def test_rows_on_a_card_in_the_docs() -> None:
    table = rows("docs/speed.md", "| keys | 128 |")
    assert len(table) == 6
    for label, *cells in table:
        values = [100 * r["share_of_copy"] for r in on_the_card("rows", label)]
        assert all(shows(cell, value) for cell, value in zip(cells, values, strict=True)), (label, values)


@pytest.mark.skipif(native() is None, reason="the native kernels are not built")
def test_departures_from_exact_attention_in_the_docs(tmp_path: Path) -> None:
    """Errors are the same on every processor with native kernels, so the command of the docs runs here."""
    record = tmp_path / "bench.json"
    shapes = ["--shape", "12x1024x1024x64", "--shape", "12x1x8192x64", "--dtype", "float32"]
    assert (
        main(
            [
                "bench",
                *shapes,
                "--method",
                "exaq",
                "--dtype",
                "float32",
                "--rounds",
                "1",
                "--threads",
                "1",
                "--json",
                str(record),
            ]
        )
        == 0
    )
    measured = [r for r in json.loads(record.read_text())["results"] if r["method"] == "exaq" and "storage" not in r]
    prompts, decoded = measured[:3], measured[3:]
    table = rows("docs/speed.md", "| | error against the method itself, 1,024 tokens |")
    for (label, *cells), prompt, token in zip(table, prompts, decoded, strict=True):
        assert prompt["variant"].startswith(label.removeprefix("EXAQ, "))
        figures = [prompt["error_rms"], *(r["difference_from_exact_rms"] for r in (prompt, token))]
        assert wrong(cells, [100 * figure for figure in figures]) == [], label


@pytest.mark.skipif(native() is None, reason="the native kernels are not built")
def test_outlier_channels_in_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, `python benchmarks/outlier_channels.py` runs here."""
    path = tmp_path / "record.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks/outlier_channels.py", "--json", str(path)])
    runpy.run_path(str(ROOT / "benchmarks" / "outlier_channels.py"), run_name="__main__")
    measured = json.loads(path.read_text())["results"]
    table = rows("docs/speed.md", "| outliers | 8-bit cache: scores, results |")
    kinds = dict.fromkeys(result["outliers"] for result in measured if "outliers" in result)
    for (label, *cells, without), kind in zip(table, kinds, strict=True):
        *cached, alone = (result for result in measured if result.get("outliers") == kind)
        values = [result[f"{figure}_error_percent"] for result in cached for figure in ("scores", "results")]
        assert wrong([cell.rstrip("%") for cell in ", ".join(cells).split(", ")], values) == [], label
        assert shows(without.partition(" (")[0], alone["results_error_percent"]), label
        assert (alone["backend"] == "torch") == ("float32 takes over" in without)
    table = rows("docs/speed.md", "| keys that give mean and factors | ordinary keys, 8 bits |")
    counts = dict.fromkeys(result["first_keys"] for result in measured if "first_keys" in result)
    for (label, *cells), first in zip(table, counts, strict=True):
        assert label == str(first)
        assert wrong(cells, [x["scores_error_percent"] for x in measured if x.get("first_keys") == first]) == [], label
    of_channels = [result for result in measured if "channels" in result]
    for label, *cells in rows("docs/speed.md", "| channels, one larger | EXAQ 2 bits"):
        channels, size = label.replace("none", "1").removesuffix(" times").split(", ")
        own = [x for x in of_channels if x["ratio"] == int(size) and channels in (str(x["channels"]), "any of these")]
        methods = dict.fromkeys((x["method"], x["spec"].get("bits")) for x in own)
        for cell, (method, bits) in zip(cells, methods, strict=True):
            results = [x for x in own if (x["method"], x["spec"].get("bits")) == (method, bits)]
            in_8_bits, in_bfloat16 = cell.split(", ")
            assert {x["backend"] == "torch" for x in results} == {in_8_bits == "float32"}, (label, cell)
            errors = [x["bfloat16_error_percent"] for x in results]
            assert wrong([x.rstrip("%") for x in in_bfloat16.split(" to ")], sorted({min(errors), max(errors)})) == []
            assert in_8_bits == "float32" or shows(in_8_bits, results[0]["results_error_percent"]), (label, cell)


def test_table_formats_in_the_docs() -> None:
    table = rows("docs/methods.md", "| `table_format` | BF16 | FP16 |")
    forms: list[dict[str, Any]] = [{}, {"constant": "multiplied"}, {"tables": "shift"}]
    codes, whole = np.arange(-128, 128), ConSmax(tables="whole")
    for (label, *cells), form in zip(table, forms, strict=True):
        errors = []
        for table_format in (BF16, FP16, *(UQ(0, bits) for bits in (6, 7, 8, 9, 10, 12))):
            spec = ConSmax(table_format=table_format, **form)
            constants = spec.constants()
            nearest = whole.golden(codes, None, whole.constants(scale=constants.real_scale))
            off = abs(spec.golden(codes, None, constants) - nearest)
            errors.append(f"{off.max()} ({(off > 0).sum()})")
        assert cells == errors, label


def test_accuracy_of_caches_in_the_docs() -> None:
    table = rows("docs/models.md", "| cache | change of their loss |")
    _, *measured = results("smollm2/cache-accuracy.json")
    for (label, *cells), result in zip(table, measured, strict=True):
        assert label.replace(" bits", "-bit cache") == result["storage"]
        errors = [result[f"{name}_error_percent"] for name in ("logits", "keys", "values")]
        assert wrong(cells, [result["loss_change_percent"], *errors]) == [], label


def test_instructions_of_decoding_in_the_docs() -> None:
    table = rows("docs/speed.md", "| instructions per byte | in one piece | pages of 16 |")
    measured = results("speed/decode-instructions.json")
    assert [(r["query_heads_per_key_head"], r["bits"], r["page"]) for r in measured] == [
        (heads, bits, page) for heads in (1, 4) for bits in (8, 4) for page in (None, 16)
    ]
    cells = [cell for _, *pair in table for cell in pair]
    assert wrong(cells, [r["instructions_per_byte"] for r in measured]) == []


def test_pages_in_the_docs() -> None:
    """The cells are ConSmax's; EXAQ's are as near as the text says."""
    table = rows("docs/speed.md", "| time over one piece, by page size |")
    measured = {
        (r["method"], r["bits"], r["page"]): r["time_over_contiguous"] for r in results("speed/paged-cache.json")
    }
    for label, *cells in table:
        places = [(int(label.split()[0]), page) for page in (16, 32, 128)]
        assert wrong(cells, [measured["consmax", *place] for place in places]) == [], label
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    (within,) = re.findall(r"ConSmax \(EXAQ within ([\d.]+) of it\)", text)
    apart = [
        abs(measured["exaq", *place] - ratio) for (method, *place), ratio in measured.items() if method == "consmax"
    ]
    assert max(apart) <= float(within) + 0.005  # as rounded


def test_integer_mode_in_the_docs() -> None:
    _, *measured = results("speed/integer-mode.json")
    text = " ".join((ROOT / "docs" / "speed.md").read_text(encoding="utf-8").split())
    for backend, phrase in (("native", "{} to {} times as long,"), ("golden", "and {} to {} times through golden")):
        ratios = [r["time_over_eager"] for r in measured if r["backend"] == backend]
        pattern = re.escape(phrase).replace(r"\{\}", r"([\d.]+)")
        (shown,) = re.findall(pattern, text)
        assert wrong([*shown], [min(ratios), max(ratios)]) == [], backend


def test_training_in_the_docs() -> None:
    sdpa, *measured = results("speed/training-xeon.json")
    table = rows("docs/speed.md", "| training step |")
    assert len(table) == len(measured) / 2
    for (name, *cells), again, kept in zip(table, measured[::2], measured[1::2], strict=True):
        assert name.split(",")[0].lower() == again["method"] == kept["method"]
        figures = [x for r in (again, kept) for x in (r["time_over_sdpa"], r["kept_bytes"] / 2**20)]
        assert wrong(cells, figures) == []
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    assert f"sdpa {sdpa['kept_bytes'] / 2**20:.0f} MiB" in " ".join(text.split())
