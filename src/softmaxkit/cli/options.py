"""Options that several verbs share, and the specs, recipes and folders that they choose."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from softmaxkit.methods import ALL_METHODS, METHODS, RIVALS, method_class
from softmaxkit.methods.base.spec import Spec
from softmaxkit.recipe import FINE_TUNING_RATE, Recipe

Name = TypeVar("Name", str, str | None)

ALL = "all"
"""Stands for all methods but rivals, where a verb takes one or all."""


def any_of(names: Sequence[str]) -> str:
    """Return names as a choice, e.g. "sky130, asap7 or ice40"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def method_argument(help: str, *also: str) -> Any:
    """Return the argument of a method's name, completed by the shell; `also` are other words that it takes."""
    return typer.Argument(help=help, show_default=False, autocompletion=lambda: [*METHODS, *also])


OR_RIVALS = f"; or a rival, {any_of(RIVALS)}" if RIVALS else ""
MethodArgument = Annotated[str | None, method_argument(f"{any_of(ALL_METHODS)}{OR_RIVALS}.")]
MethodOrAllArgument = Annotated[str | None, method_argument(f"{any_of([*ALL_METHODS, ALL])}{OR_RIVALS}.", ALL)]
MethodsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help=f"Measure this method; may be given again{OR_RIVALS}.",
        show_default="all but rivals" if RIVALS else "all",
        autocompletion=lambda: [*METHODS],
    ),
]
SpecOption = Annotated[
    Path | None, typer.Option("--spec", metavar="FILE", help="A spec as JSON, in place of a method.")
]
SpecsOption = Annotated[
    list[Path] | None,
    typer.Option("--spec", metavar="FILE", help="Measure this spec, as JSON; may be given again.", show_default=False),
]
ModelArgument = Annotated[
    str,
    typer.Argument(help="A model's folder, hub name, or GGUF file; or smollm2, where installed.", show_default=False),
]
GgufOption = Annotated[
    str | None, typer.Option("--gguf", metavar="FILE", help="The GGUF file of the model in its folder or on the hub.")
]
TextOption = Annotated[
    Path | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="Text to train and measure on; or a data set's name, such as Salesforce/wikitext:wikitext-2-raw-v1.",
        show_default="the Python standard library's source",
    ),
]
ContextOption = Annotated[int, typer.Option(min=2, help="Tokens in a window.")]
WindowsOption = Annotated[int, typer.Option(min=1, help="Held-out windows to measure on, at most.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a model in the output folder.")]
SeedOption = Annotated[int, typer.Option(help="Seed of all random numbers.", min=0)]


def given(context: typer.Context, *names: str) -> list[str]:
    """Return those of some parameters of a verb that its command line has, as the options that they are."""

    def is_given(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    return [max(each.opts, key=len) for each in context.command.params if each.name in names and is_given(each.name)]


def refuse(options: Sequence[str], why: str) -> None:
    """Refuse options that would be ignored.

    Raises:
        ValueError: there are some; the message names them and says why.
    """
    if options:
        raise ValueError(f"{why}; leave {' and '.join(options)} out")


def writable_file(path: Path | None) -> Path | None:
    """Return a path that a file can be written to, checked before any work; "-" is standard output.

    Raises:
        ValueError: it is a folder, lies in a file, or in a folder that cannot be written to.
    """
    if path is None or path == Path("-"):
        return path
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file to write")
    writable_folder(path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{path} is there and cannot be written to; give another file, or change its permissions")
    return path


def writable_folder(path: Path | None) -> Path | None:
    """Return a path at which a folder is, or can be made, and written to, checked before any work.

    Raises:
        ValueError: it is a file, lies in a file, or cannot be written to.
    """
    if path is None:
        return None
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise ValueError(f"{existing} is a file; give a folder to write to")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{existing} cannot be written to; give another place, or change its permissions")
    return path


def output_folder(help: str) -> Any:
    """Return the option of a folder to write to."""
    return typer.Option("--output", "-o", metavar="DIR", callback=writable_folder, help=help)


def with_gguf(model: Name, file: str | None) -> Name:
    """Return the name of a model of which one GGUF file is meant.

    Raises:
        ValueError: there is a file and no model, or the model is a file already.
    """
    if file is None:
        return model
    if model is None or model.endswith(".gguf"):
        raise ValueError(f"--gguf {file} names a file in the model's folder; give the folder, or a hub name, too")
    return f"{model}/{file}"


InputFile: dict[str, Any] = {"exists": True, "dir_okay": False, "readable": True}
"""What a file that is only read has to be."""

JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="PATH", callback=writable_file, help="Write the record there; - for standard output."
    ),
]


def chosen_specs(methods: list[str] | None, files: list[Path] | None) -> list[Spec]:
    """Return the specs in files and the variants of methods; those of all but rivals where neither are given.

    Raises:
        ValueError: as `chosen_spec`.
    """
    specs = [chosen_spec(None, file) for file in files or []]
    names = methods or ([] if files else ALL_METHODS)
    specs += [variant for name in names for variant in method_class(name).variants()]
    return list(dict.fromkeys(specs))


def chosen_spec(method: str | None, spec_file: Path | None) -> Spec:
    """Return a spec by a method's name or from a JSON file.

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
    """Return how to train; a model that comes trained has another learning rate, unless one is given."""
    if learning_rate is None:
        learning_rate = FINE_TUNING_RATE if pretrained else Recipe().learning_rate
    return Recipe(steps=steps, context=context, learning_rate=learning_rate)


def check_output_folder(path: Path, overwrite: bool) -> None:
    """Refuse, before any work, a folder that a model cannot be written to or that holds one already.

    Raises:
        ValueError: it is a file, holds something else, or a model and `overwrite` is not set.
    """
    from softmaxkit.models.checkpoint import check_folder

    check_folder(path)
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise ValueError(f"{path} holds a model already; give another --output, or --overwrite")
