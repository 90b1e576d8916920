"""The ledger of the papers' claims, as Markdown and as an HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softmaxkit.report.ledger import DETAILS, Ledger, tally
from softmaxkit.report.page import fill


def render_claims(record: Mapping[str, Any]) -> str:
    """Return the ledger as one self-contained HTML page.

    Args:
        record: the JSON object that `softmaxkit claims` writes.
    """
    return fill("claims.html.j2", record, ledger=Ledger.of(record), details=DETAILS)


def claims_markdown(record: Mapping[str, Any]) -> str:
    """Return the ledger as Markdown: a table of verdicts, and a section for each claim.

    Args:
        record: the JSON object that `softmaxkit claims` writes.
    """
    results = record["results"]
    lines = [
        "# Claims",
        "",
        "The claims of the methods' papers, and our measurements. `softmaxkit claims --markdown docs/claims.md` writes",
        "this page from the records in `results/`; figures and verdicts are read from them, never typed in.",
        "",
        "- *reproduced*, *not reproduced*: in our setting, our figure with its spread reaches the claim, or does not.",
        "- *not comparable*: our setting differs too much for our figure to confirm or refute the claim.",
        "- *not measured*: a record is missing, or something has to be built first.",
        "",
        f"{tally(results)}.",
        "",
        "| claim | | verdict |",
        "| --- | --- | --- |",
        *(f"| [{result['id']}](#{result['id']}) | {result['claim']} | {result['verdict']} |" for result in results),
    ]
    for result in results:
        lines += ["", f"## {result['id']}", "", f"{result['claim']} **{result['verdict'].capitalize()}.**", ""]
        lines += [f"- {heading}: {result[key]}" for key, heading in DETAILS.items() if result[key]]
        lines += [f"- Record: `{file}`, by `{command}`" for file, command in result["records"].items()]
    return "\n".join(lines) + "\n"
