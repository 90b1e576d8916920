"""README and docs against the package: links lead somewhere, files and options exist, and the README's code runs."""

from __future__ import annotations

import pkgutil
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM

import softmaxkit
from models.architectures import ARCHITECTURES
from powers import Powers
from softmaxkit.cli import app
from softmaxkit.methods import METHODS
from softmaxkit.methods.base.spec import Spec

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
FOLDERS = ("results", "tests", "benchmarks", "docs", "native", "src")
MADE = ("results/demo", "results/demo-smollm2")
"""Folders that commands write and that are not in the repository."""
PAGES_OF_METHODS = ("docs/methods.md", "docs/arithmetic.md")


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def anchors(text: str) -> set[str]:
    """Return the names under which GitHub lists a page's headings."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        if not other.exists() or (anchor and anchor not in anchors(other.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


def commands(text: str) -> list[str]:
    """Return the calls of the command in shell blocks and code spans, without the comments behind them."""
    shell = "".join([*code_blocks(text, "sh"), *code_blocks(text, "bash")]).replace("\\\n", "")
    return [line for line in [*shell.splitlines(), *spans(text)] if re.match(r"softmaxkit [a-z]", line)]


def unknown_options(command: str) -> list[str]:
    """Return the verb, or the options, that a command names and the program does not have."""
    _, verb, *arguments = shlex.split(command, comments=True)
    if verb not in VERBS:
        return [verb]
    known = {name for parameter in VERBS[verb].params for name in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help", "-h"}
    return [argument for argument in arguments if re.match(r"--?[a-zA-Z]", argument) and argument not in known]


def missing_files(text: str) -> list[str]:
    """Return the files of the repository that code spans name and that are not there."""
    named = [span for span in spans(text) if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]+\w", span)]
    named += [f"src/{span}" for span in spans(text) if re.fullmatch(r"softmaxkit/[\w./-]+\.\w+", span)]
    named = [name for name in named if not name.startswith(MADE) and "NAME" not in name]
    return [name for name in named if not (ROOT / name).exists()]


def unknown_names(text: str) -> list[str]:
    """Return what is named as part of softmaxkit in Python and is not there."""
    names = {match[0] for span in spans(text) if (match := re.match(r"softmaxkit(\.[A-Za-z_]\w*)+", span))}
    return sorted(name for name in names if not name.endswith((".json", ".safetensors")) and not is_there(name))


def is_there(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_commands_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert broken_links(page) == []
    assert {command: unknown for command in commands(text) if (unknown := unknown_options(command))} == {}
    assert missing_files(text) == []
    assert unknown_names(text) == []


def test_what_is_wrong_is_reported(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One\n[a](#one) [b](#two) [c](other.md) [d](page.md#one)\n")
    assert broken_links(page) == ["#two", "other.md"]
    text = "```sh\nsoftmaxkit synth all \\\n  --lane 4    # --comment\nsoftmaxkit go\n```\n`softmaxkit rtl --tkeep`"
    assert [unknown_options(command) for command in commands(text)] == [["--lane"], ["go"], []]
    assert missing_files("`results/none.json`, `tests/test_docs.py`, `softmaxkit/none.py`, `results/demo/x`") == [
        "results/none.json",
        "src/softmaxkit/none.py",
    ]
    assert unknown_names("`softmaxkit.kernels.none`, `softmaxkit.attention(query)`, `softmaxkit.formats.Q`") == [
        "softmaxkit.kernels.none"
    ]


def test_the_readme_runs_and_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every Python block of the README, with a tiny model for the reader's own."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first, in_a_model, in_inference = code_blocks(readme, "python")
    monkeypatch.chdir(tmp_path)

    exec(first, {})
    assert capsys.readouterr().out == code_blocks(readme, "text")[0]

    _, fields, inputs = ARCHITECTURES["LlamaForCausalLM"]
    LlamaForCausalLM(LlamaConfig(**fields)).save_pretrained("my-llama")
    exec(in_a_model, {"batches": [inputs["input_ids"]]})

    query, key, value = torch.randn(3, 1, 2, 8, 16, generator=torch.Generator().manual_seed(0)).unbind()
    named: dict[str, Any] = {"softmaxkit": softmaxkit, "query": query, "key": key, "value": value, "inputs": inputs}
    exec(in_inference, named | {"logits": torch.randn(4, 1000), "model": softmaxkit.load("my-llama-exaq")})


def test_the_code_of_the_methods_runs() -> None:
    names: dict[str, Any] = {"softmaxkit": softmaxkit}
    for block in code_blocks((ROOT / "docs" / "methods.md").read_text(encoding="utf-8"), "python"):
        exec(block, names)
    assert (names["off"].max(), (names["off"] > 0).sum()) == (1, 19)  # as the table has it for UQ(0,9), folded


def missing_modules(text: str) -> list[str]:
    """Return the modules that the table of folders names and that are not there."""
    missing = []
    for folder, modules in re.findall(r"^\| `([a-zA-Z_/]+)/`.*? \| (.*) \|$", text, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", modules):
            if not any((ROOT / "src" / "softmaxkit").glob(f"{folder.replace('NAME', '*')}/{name}.py")):
                missing.append(f"{folder}/{name}")
    return missing


def undescribed(methods: Mapping[str, type[Spec]]) -> list[str]:
    """Return where a method is missing: README's table, or its text for a rival, and the headings of both pages."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", *PAGES_OF_METHODS)}
    missing = []
    for name, spec in methods.items():
        row = f"`{name}`" if spec.rival else f"| `{spec.__name__}` |"
        if row not in texts["README.md"]:
            missing.append(f"{row} in README.md")
        for page in PAGES_OF_METHODS:
            if not re.search(rf"^##+ {re.escape(spec.title)}$", texts[page], re.MULTILINE):
                missing.append(f"## {spec.title} in {page}")
    return missing


def test_every_method_is_described() -> None:
    assert undescribed(METHODS) == []
    assert undescribed({"powers": Powers}) == [
        "| `Powers` | in README.md",
        "## Powers in docs/methods.md",
        "## Powers in docs/arithmetic.md",
    ]


def test_the_folders_hold_what_the_architecture_says() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert missing_modules(text) == []
    for name in re.findall(r"^ {4}(\w+(?:/|\.py)) ", text, re.MULTILINE):
        assert (ROOT / "src" / "softmaxkit" / name).exists(), name
    assert missing_modules("| `flow/`, to silicon | `mapping` with `none` |") == ["flow/none"]
