"""The HTML page of a study: its question, its chart, and its figures over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from softmaxkit.report.methods import baseline_name, read_methods
from softmaxkit.report.page import Plot, fill
from softmaxkit.report.sheets import Sheet, sheet_json
from softmaxkit.report.study_charts import constants, picture
from softmaxkit.report.summary import setting, shown, summary

__all__ = ["constants", "picture", "render_study", "setting", "shown", "summary"]

Summary = Mapping[str, Any]

_FIGURES = (("loss_nats", "Loss, nats", 4, ""), ("loss_change_percent", "Change from exact", 2, "%"))
_ROW_SUM = ("row_sum_mean", "Row sum", 3, "")


def render_study(record: Mapping[str, Any]) -> str:
    """Render the record of a study as a self-contained HTML page.

    Args:
        record: the JSON object that `softmaxkit study` writes.
    """
    inputs, results = record["inputs"], record["results"]
    methods = read_methods(record, [result["method"] for result in results])
    titles = {name: method.title for name, method in methods.items()}
    figures = (*_FIGURES, _ROW_SUM)
    columns = [summary(results, key) for key, *_ in figures]
    groups = columns[0]
    rows = [
        (
            titles[group["method"]],
            group["variant"],
            setting(group["settings"]),
            group["mode"],
            [
                shown(column[place], digits, unit).replace("-", "−")
                for column, (_, _, digits, unit) in zip(columns, figures, strict=True)
            ],
        )
        for place, group in enumerate(groups)
    ]
    drawn = picture(results, inputs.get("picture") or {}, titles, baseline_name(record))
    return fill(
        "study.html.j2",
        record,
        name=inputs["study"],
        question=inputs["question"],
        finding=inputs.get("finding", ""),
        one_seed=len({result.get("seed") for result in results}) == 1,
        headings=[heading for _, heading, *_ in figures],
        rows=rows,
        sheet=sheet_json(_sheet(columns, [key for key, *_ in figures], titles)),
        plots={
            "picture": [Plot.of(drawn)] if drawn else [],
            "constants": [Plot.of(figure, title=name) for name, figure in constants(results)],
        },
    )


def _sheet(columns: Sequence[Sequence[Summary]], keys: Sequence[str], titles: Mapping[str, str]) -> Sheet:
    """Return the figures for export, with all digits: a column per setting, and mean and spread of each figure."""
    settings = list(dict.fromkeys(key for group in columns[0] for key in group["settings"]))
    headings = ["method", "variant", *settings, "mode", "seeds", "diverged"]
    for key in keys:
        headings += [key, f"{key}_spread"]
    rows = []
    for groups in zip(*columns, strict=True):
        group = groups[0]
        row = [
            titles[group["method"]],
            group["variant"],
            *(group["settings"].get(key) for key in settings),
            group["mode"],
        ]
        row += [group["seeds"], group["diverged"]]
        for column in groups:
            row += [column["mean"], column["spread"]]
        rows.append(row)
    return Sheet(headings, rows)
