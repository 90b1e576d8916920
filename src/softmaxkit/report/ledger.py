"""The ledger of the papers' claims, as shown on HTML pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from softmaxkit.report.sheets import Sheet, sheet_json

Result = Mapping[str, Any]

COLUMNS = {"id": "Claim", "claim": "In our words", "published": "Paper", "measured": "Here", "verdict": "Verdict"}
DETAILS = {"source": "Source", "published": "Paper", "measured": "Here", "why": "Why"}


def tally(results: Sequence[Result]) -> str:
    """Return the number of claims by verdict, in words."""
    counts = Counter(result["verdict"] for result in results)
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"{len(results)} claim{'s'[: len(results) != 1]}: {verdicts}"


class Ledger(NamedTuple):
    """The ledger in the form that the page templates expect.

    Attributes:
        tally: the number of claims by verdict, in words.
        folder: the folder of the records.
        columns: headings of the table, by key of a result.
        results: the claims.
        sheet: the table for export as CSV, including the reasons.
    """

    tally: str
    folder: str
    columns: Mapping[str, str]
    results: Sequence[Result]
    sheet: Markup

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Ledger:
        """Return the ledger of a record of `softmaxkit claims`."""
        results, keys = record["results"], ("id", *DETAILS, "verdict")
        sheet = Sheet(keys, [[result[key] for key in keys] for result in results])
        return cls(tally(results), record["inputs"]["records"], COLUMNS, results, sheet_json(sheet))
