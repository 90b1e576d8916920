"""Options that several verbs share, and the specs, recipes and folders that they select."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from softmaxkit.cli.console import note
from softmaxkit.methods import ALL_METHODS, METHODS, RIVALS, method_class
from softmaxkit.methods.base.spec import Spec
from softmaxkit.recipe import FINE_TUNING_RATE, Recipe

Name = TypeVar("Name", str, str | None)

ALL = "all"
"""The METHOD argument that selects all methods except rivals."""


def any_of(names: Sequence[str]) -> str:
    """Join names as alternatives, e.g. "sky130, asap7 or ice40"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def method_argument(help: str, *also: str) -> Any:
    """Return the METHOD argument with shell completion, which also accepts the words in `also`."""
    return typer.Argument(help=help, show_default=False, autocompletion=lambda: [*METHODS, *also])


def methods_option(help: str, default: str) -> Any:
    """Return the repeatable --method option with a help text and the description of its default."""
    return typer.Option("--method", help=f"{help} Repeatable.", show_default=default, autocompletion=lambda: [*METHODS])


OR_RIVALS = f"; or a rival, {any_of(RIVALS)}" if RIVALS else ""
MethodArgument = Annotated[str | None, method_argument(f"{any_of(ALL_METHODS)}{OR_RIVALS}.")]
MethodOrAllArgument = Annotated[str | None, method_argument(f"{any_of([*ALL_METHODS, ALL])}{OR_RIVALS}.", ALL)]
MethodsOption = Annotated[
    list[str] | None,
    methods_option(f"Measure this method{OR_RIVALS}.", "all except rivals" if RIVALS else "all"),
]
SpecOption = Annotated[
    Path | None, typer.Option("--spec", metavar="FILE", help="A JSON file with a spec, in place of a method.")
]
SpecsOption = Annotated[
    list[Path] | None,
    typer.Option("--spec", metavar="FILE", help="Measure the spec in this JSON file. Repeatable.", show_default=False),
]


def model_name(name: str | None) -> str | None:
    """Return the name of a model; if it can only be on the hub, first say that it is looked for there.

    Without a network, that takes half a minute.
    """
    if name is not None and not Path(name).exists():
        from softmaxkit.models.sources import can_only_be_on_hub

        if can_only_be_on_hub(name):
            note(
                f"there is no {name} here, so it is looked for on the Hugging Face hub; "
                "with HF_HUB_OFFLINE=1, only among what was downloaded before"
            )
    return name


ModelArgument = Annotated[
    str,
    typer.Argument(
        callback=model_name,
        help="A model: a folder, hub name or GGUF file; or smollm2, if installed.",
        show_default=False,
    ),
]
GgufOption = Annotated[
    str | None,
    typer.Option(
        "--gguf", metavar="FILE", help="Name of the GGUF file to use in the model's folder or hub repository."
    ),
]
TextOption = Annotated[
    Path | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="Text file to train and measure on, or a hub data set, e.g. Salesforce/wikitext:wikitext-2-raw-v1.",
        show_default="the Python standard library's source",
    ),
]
ContextOption = Annotated[int, typer.Option(min=2, help="Length of a window in tokens.")]
WindowsOption = Annotated[int, typer.Option(min=1, help="Maximum number of held-out windows to measure on.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a model in the output folder.")]
SeedOption = Annotated[int, typer.Option(help="Seed of all random numbers.", min=0)]


def given(context: typer.Context, *names: str) -> list[str]:
    """Return the options, e.g. "--lanes", for those parameters in `names` that are set on the command line."""

    def is_given(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    return [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name in names and is_given(parameter.name)
    ]


def refuse(options: Sequence[str], why: str) -> None:
    """Reject options that would otherwise be silently ignored.

    Raises:
        ValueError: `options` is not empty; the message names them and the reason.
    """
    if options:
        raise ValueError(f"{why}; leave {' and '.join(options)} out")


def output_file(context: typer.Context, path: Path | None) -> Path | None:
    """Check an option's path as `writable_file` does, and that no other option of the command names the same file.

    Raises:
        ValueError: it cannot be written to, or another option names it.
    """
    if path is not None and writable_file(path) != Path("-"):
        outputs: set[Path] = context.meta.setdefault("softmaxkit.outputs", set())
        if path.resolve() in outputs:
            raise ValueError(f"two options would write {path}; name a file for each of them")
        outputs.add(path.resolve())
    return path


def writable_file(path: Path | None) -> Path | None:
    """Check, before any work, that a file can be written to a path, and return it; "-" is standard output.

    Raises:
        ValueError: the path is a folder or an unwritable file, or its parent is a file or an unwritable folder.
    """
    if path is None or path == Path("-"):
        return path
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file to write")
    writable_folder(path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{path} exists and is not writable; give another file, or change its permissions")
    return path


def writable_folder(path: Path | None) -> Path | None:
    """Check, before any work, that a folder exists or can be created and is writable, and return its path.

    Raises:
        ValueError: the path or one of its parents is a file, or is not writable.
    """
    if path is None:
        return None
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise ValueError(f"{existing} is a file; give a folder to write to")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{existing} is not writable; give another folder, or change its permissions")
    return path


def output_folder(help: str) -> Any:
    """Return the --output option with a help text."""
    return typer.Option("--output", "-o", metavar="DIR", callback=writable_folder, help=help)


def with_gguf(model: Name, file: str | None) -> Name:
    """Return the name of a model, extended by the GGUF file of --gguf if there is one.

    Raises:
        ValueError: there is a file but no model, or the model is itself a file.
    """
    if file is None:
        return model
    if model is None or model.endswith(".gguf"):
        raise ValueError(f"--gguf {file} is a file in the model's folder; also give the folder, or a hub name")
    return f"{model}/{file}"


InputFile: dict[str, Any] = {"exists": True, "dir_okay": False, "readable": True}
"""Typer's checks of an input file."""

JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="PATH", callback=output_file, help="Write the record to this file; - for standard output."
    ),
]


def chosen_specs(methods: list[str] | None, files: list[Path] | None) -> list[Spec]:
    """Return the specs in the files and the variants of the methods; by default those of all methods except rivals.

    Raises:
        ValueError: as for `chosen_spec`.
    """
    specs = [chosen_spec(None, file) for file in files or []]
    names = methods or ([] if files else ALL_METHODS)
    specs += [variant for name in names for variant in method_class(name).variants()]
    return list(dict.fromkeys(specs))


def chosen_spec(method: str | None, spec_file: Path | None) -> Spec:
    """Return the default spec of a method, or the spec in a JSON file.

    Raises:
        ValueError: neither or both are given, the method is unknown, or the file cannot be read.
    """
    if method is not None and spec_file is None:
        return method_class(method)()
    if method is not None or spec_file is None:
        raise ValueError("give either a METHOD or --spec FILE; 'softmaxkit methods' lists the methods")
    try:
        text = spec_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the spec {spec_file}: {getattr(error, 'strerror', None) or error}") from None
    try:
        return Spec.from_json(text)
    except ValueError as error:
        raise ValueError(f"{spec_file}: {error}") from None


def chosen_recipe(steps: int, context: int, pretrained: bool, learning_rate: float | None = None) -> Recipe:
    """Return the training recipe; the default learning rate depends on whether the model is pretrained."""
    if learning_rate is None:
        learning_rate = FINE_TUNING_RATE if pretrained else Recipe().learning_rate
    return Recipe(steps=steps, context=context, learning_rate=learning_rate)


def check_output_folder(path: Path, overwrite: bool) -> None:
    """Check, before any work, that a model can be written to a folder.

    Raises:
        ValueError: it is a file, contains other files, or contains a model and `overwrite` is not set.
    """
    from softmaxkit.models.checkpoint import check_folder

    check_folder(path)
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise ValueError(f"{path} already contains a model; give another --output, or --overwrite")
