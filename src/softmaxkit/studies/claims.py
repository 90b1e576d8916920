"""The ledger of the papers' claims: each with our figure and the verdict, read from the records in a folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from softmaxkit.files import write_json
from softmaxkit.methods import method_class
from softmaxkit.methods.base.claims import Claim, Finding, Record
from softmaxkit.record import make_record
from softmaxkit.studies.progress import Stage


def measure_claims(methods: Iterable[str], folder: Path, command: Sequence[str], stage: Stage) -> None:
    """Measure the claims of some methods that take seconds, and write their records into a folder.

    Raises:
        RuntimeError: the native kernels, of which some are measured, are not built.
        ModuleNotFoundError: Amaranth, whose units some count cycles of, is not installed.
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
        methods: their names.
        folder: of records; those that are missing leave claims unmeasured.
        command: for the record.

    Returns:
        the record: a result for each claim, with its `source`, the `claim`, what is `published`, what was `measured`,
        the `verdict`, `why`, and the `records` it is read from, by file, with the commands that made or would make
        them.

    Raises:
        ValueError: a record cannot be read, or lacks what a claim is read from.
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


def _read(path: Path) -> Record | None:
    """Return a record; None where there is none."""
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise ValueError(f"{path} is no JSON; make the record again") from None
    return record


def _judge(claim: Claim, records: dict[str, Record | None], folder: Path) -> Finding:
    there = [record for record in records.values() if record is not None]
    if missing := [file for file, record in records.items() if record is None]:
        return Finding("", "not measured", f"No record {' and '.join(missing)} yet.")
    try:
        return claim.judge(*there)
    except (ValueError, LookupError, TypeError) as error:
        files = " and ".join(str(folder / file) for file in records)
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{claim.id} cannot be read from {files}: {what}; make the record again") from error
