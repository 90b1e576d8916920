"""The ledger of the papers' claims: our figure and the verdict for each, read from the records in a folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from softmaxkit.files import write_json
from softmaxkit.methods import method_class
from softmaxkit.methods.base.claims import Claim, Finding, Record, Unfit
from softmaxkit.record import make_record, read_record
from softmaxkit.studies.progress import Stage


def measure_claims(methods: Iterable[str], folder: Path, command: Sequence[str], stage: Stage) -> None:
    """Measure those claims of some methods that take only seconds, and write their records to a folder.

    Raises:
        RuntimeError: the native kernels, which some claims measure, are not built.
        ModuleNotFoundError: Amaranth, with which some claims count the cycles of units, is not installed.
        OSError: a record cannot be written.
    """
    for name in methods:
        for claim in method_class(name).claims():
            if claim.measure is not None:
                progress = stage(f"measure {claim.id}")
                result = {"method": name, "claim": claim.id, **claim.measure()}
                write_json(folder / claim.own_record, make_record(command, 0, {}, [result]))
                progress(1, 1)


def judge_claims(methods: Iterable[str], folder: Path, command: Sequence[str]) -> dict[str, Any]:
    """Judge all claims of some methods by the records in a folder.

    Args:
        methods: names of the methods.
        folder: folder of records; a claim whose record is missing is "not measured".
        command: the command line, for the record.

    Returns:
        The record: a result for each claim, with its `source`, the `claim`, the `published` and the `measured` figure,
        the `verdict`, `why`, and `records`, the files that it is read from, each with the command that made it or
        would make it.

    Raises:
        ValueError: a record cannot be read, or lacks a figure that a claim needs.
    """
    results = []
    for name in methods:
        spec = method_class(name)
        for claim in spec.claims():
            records = {file: _read(folder / file) for file in claim.files}
            finding = _judge(claim, records, folder)
            about = {"method": name, "id": claim.id, "source": f"{spec.source}, {claim.place}", "claim": claim.claim}
            commands = {
                file: expected if (record := records[file]) is None else shlex.join(record["command"])
                for file, expected in claim.files.items()
            }
            results.append({**about, "published": claim.published, **finding._asdict(), "records": commands})
    return make_record(command, 0, {"records": str(folder)}, results)


class _Figures(dict[str, Any]):
    """A result, or a part of one, in which no figure is a truth value, which Python counts as 0 or 1.

    Settings may be truth values; judges select by them with `get`.
    """

    def __getitem__(self, name: str) -> Any:
        figure = super().__getitem__(name)
        for value in figure if isinstance(figure, list) else [figure]:
            if isinstance(value, bool):
                raise Unfit(f"the figure {name} must be a number, got {value}")
        return figure


def _read(path: Path) -> Record | None:
    """Return a record, with its results as `_Figures`; None if the file does not exist."""
    if not path.exists():
        return None
    record = read_record(path)
    return {**record, "results": json.loads(json.dumps(record["results"]), object_hook=_Figures)}


def _judge(claim: Claim, records: dict[str, Record | None], folder: Path) -> Finding:
    present = [record for record in records.values() if record is not None]
    if missing := [file for file, record in records.items() if record is None]:
        return Finding("", "not measured", f"No record {' and '.join(missing)} yet.")
    try:
        return claim.judge(*present)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        files = " and ".join(str(folder / file) for file in records)
        what = f"a figure is not of the expected kind ({error})"
        if isinstance(error, KeyError):
            what = f"the figure {error} is missing"
        elif isinstance(error, Unfit):
            what = str(error)
        commands = " and ".join(dict.fromkeys(claim.files.values()))
        raise ValueError(f"{claim.id} cannot be read from {files}: {what}; make it again: {commands}") from error
