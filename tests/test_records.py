"""The records in results/: their commands are today's, their specs load, and they name no place of a machine."""

from __future__ import annotations

import json
import runpy
import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import typer

from doc_tables import ROOT
from softmaxkit.cli import app
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import amount, ratio

pytestmark = pytest.mark.filterwarnings("ignore:.*created but never used")

FILES = {
    str(path.relative_to(ROOT)): json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "results").rglob("*.json"))
    if not path.is_relative_to(ROOT / "results" / "demo") and not path.is_relative_to(ROOT / "results" / "demo-smollm2")
}
"""The files of results/, without those folders that `make demo` writes."""
RECORDS = {name: content for name, content in FILES.items() if "command" in content}
COMMANDS = sorted({shlex.join(record["command"]) for record in RECORDS.values()})
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


UsageError = typer.BadParameter.__base__  # Typer's own Click, or the installed one


class ParsedError(Exception):
    """The arguments were accepted, and nothing is to be done with them."""


def parse(command: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command line as the program does, and do nothing else: a verb's values are not looked at."""
    program, *arguments = command
    if program == "softmaxkit":
        verb = VERBS[arguments[0]]
        _, rest, _ = verb.make_parser(verb.context_class(verb)).parse_args(list(arguments[1:]))
        assert rest == []
        return
    whole = ArgumentParser.parse_args

    def parse_only(self: ArgumentParser, *args: Any) -> None:
        whole(self, *args)
        raise ParsedError

    assert program == "python"
    is_module = arguments[0] == "-m"
    argv = arguments[is_module:]
    with monkeypatch.context() as patch:
        patch.setattr(ArgumentParser, "parse_args", parse_only)
        patch.setattr(sys, "argv", argv)
        patch.delitem(sys.modules, argv[0], raising=False)  # runpy warns of modules that are imported already
        run = partial(runpy.run_module, argv[0]) if is_module else partial(runpy.run_path, str(ROOT / argv[0]))
        with pytest.raises(ParsedError):
            run(run_name="__main__")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_of_a_record_is_one_of_todays(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse(shlex.split(command), monkeypatch)


@pytest.mark.parametrize(
    "wrong",
    [
        "softmaxkit synth exact --lane 4",
        "softmaxkit synth exact --lanes",
        "softmaxkit go",
        "python -m softmaxkit.studies.papers --clock 8",
        "python benchmarks/paged_cache.py --rounds 0",
    ],
)
def test_a_command_that_is_wrong_is_rejected(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((UsageError, KeyError, SystemExit)):
        parse(shlex.split(wrong), monkeypatch)


def test_every_spec_loads() -> None:
    """Those of results and those in files, without which a command of a record cannot be repeated."""
    specs = {name: [content] for name, content in FILES.items() if name not in RECORDS}
    for name, record in RECORDS.items():
        specs[name] = [result["spec"] for result in record["results"] if result.get("spec")]
    assert sum(map(len, specs.values())) > 100
    refused = {}
    for name, of_file in specs.items():
        for spec in of_file:
            try:
                Spec.from_json(json.dumps(spec))
            except ValueError as error:
                refused[name] = str(error)
    assert refused == {}


def test_files_of_the_repository_that_commands_name_are_there() -> None:
    missing = {
        name: gone
        for name, record in RECORDS.items()
        if (gone := [part for part in record["command"] if part.startswith("results/") and not (ROOT / part).exists()])
    }
    assert missing == {}


def test_no_record_names_a_place_of_the_machine_that_made_it() -> None:
    def texts(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for item in value.items() for part in item for text in texts(part)]
        if isinstance(value, list):
            return [text for part in value for text in texts(part)]
        return [value] if isinstance(value, str) else []

    places = ("/tmp/", "/home/", "/root/", "/work/", "/mnt/")
    named = {name: paths for name, file in FILES.items() if (paths := [x for x in texts(file) if x.startswith(places)])}
    assert named == {}


def test_small_ratios_keep_two_digits() -> None:
    assert [ratio(value) for value in (12.345, 1.0, 0.995, 0.1, 0.0341, 0.00123)] == [
        *("12.35", "1.00", "0.99", "0.10", "0.034", "0.0012")
    ]


def test_amounts_have_no_exponents() -> None:
    assert [amount(value) for value in (0.02361, 17.7512, 999.96, 19_329.4, 223_678.2)] == [
        *("0.02361", "17.75", "1,000"),
        *("19,329", "223,678"),
    ]
    assert [amount(value, 3) for value in (5.264, 119.6, 4_426.1)] == ["5.26", "120", "4,426"]
