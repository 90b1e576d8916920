"""Studies as short config files: methods, what to vary, seeds, and what the picture shows."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from softmaxkit.recipe import WINDOWS, Recipe, Shape
from softmaxkit.methods.base.spec import Spec

FOLDER = "softmaxkit.studies.configs"
"""The package's own studies."""

KEYS = ("question", "seeds", "windows", "shape", "recipe", "methods", "vary", "picture", "finding")
PICTURE = ("x", "y", "published", "published_x", "published_y")
FIGURES = ("loss_change_percent", "perplexity_change_percent", "loss_nats", "perplexity", "row_sum_mean")
PARTS = ("shape", "recipe", "spec")


@dataclass(frozen=True)
class Point:
    """One thing to train and measure, with every seed.

    Attributes:
        spec: the method.
        shape: the model.
        recipe: its training.
        settings: what was varied, by name, e.g. {"recipe.steps": 2000}.
    """

    spec: Spec
    shape: Shape
    recipe: Recipe
    settings: dict[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Study:
    """A question, and the points whose figures answer it.

    Attributes:
        name: of the config.
        question: in a sentence.
        seeds: every point is trained with each.
        windows: held-out windows that a loss is measured on.
        points: in the order of the config.
        picture: what it shows: `x`, one of the varied settings or "step"; `y`, a figure; and, where there is one, a
            published curve, with `published` for its name, `published_x` and `published_y`.
        finding: a sentence or two for the page, once there is something to say.
    """

    name: str
    question: str
    seeds: tuple[int, ...]
    windows: int
    points: tuple[Point, ...]
    picture: dict[str, Any] = field(hash=False)
    finding: str = ""


def study_names() -> list[str]:
    """Return the names of the package's own studies."""
    return sorted(file.name.removesuffix(".toml") for file in files(FOLDER).iterdir() if file.name.endswith(".toml"))


def read_study(name: str) -> Study:
    """Read a study: one of the package's own by its name, or a TOML file.

    Args:
        name: name or path.

    Raises:
        ValueError: there is no such study or file, or something in it cannot be; the message says where.
    """
    own = files(FOLDER) / f"{name}.toml"
    path = Path(name)
    if own.is_file():
        text, where = own.read_text(encoding="utf-8"), name
    elif path.suffix == ".toml" or path.is_file():
        try:
            text, where = path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read the study {path}: {getattr(error, 'strerror', None) or error}") from None
    else:
        raise ValueError(f"no study is called {name!r}; there are {', '.join(study_names())}, or give a .toml file")
    try:
        return _study(path.stem, tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None


def _study(name: str, given: Mapping[str, Any]) -> Study:
    _known(given, KEYS, "a study")
    for key in ("question", "methods"):
        if not given.get(key):
            raise ValueError(f"a study has {key}; this one has none")
    seeds = tuple(given.get("seeds", [0]))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds are given once each, not {list(seeds)}")
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ValueError(f"seeds are whole numbers, such as [0, 1, 2], not {list(seeds)}")
    points: list[Point] = []
    vary = dict(given.get("vary", {}))
    for key, values in vary.items():
        part, _, field_name = key.partition(".")
        if part not in PARTS or not field_name:
            raise ValueError(
                f'what varies is called "recipe.steps", "shape.norm", "spec.beta0" or the like, not {key!r}'
            )
        if not isinstance(values, list) or not values:
            raise ValueError(f"{key} varies over a list of values, not {values!r}")
    for method in given["methods"]:
        fields = {each.name for each in dataclasses.fields(Spec.from_json({"schema": 1, **method}))}
        mine = {key: values for key, values in vary.items() if not key.startswith("spec.") or key[5:] in fields}
        for values in itertools.product(*mine.values()):
            settings = dict(zip(mine, values, strict=True))
            chosen: dict[str, dict[str, Any]] = {
                "shape": dict(given.get("shape", {})),
                "recipe": dict(given.get("recipe", {})),
                "spec": {"schema": 1, **method},
            }
            for key, value in settings.items():
                part, _, field_name = key.partition(".")
                chosen[part][field_name] = value
            point = Point(
                Spec.from_json(chosen["spec"]), _made(Shape, chosen["shape"]), _made(Recipe, chosen["recipe"]), settings
            )
            if point not in points:
                points.append(point)
    unused = [key for key in vary if key.startswith("spec.") and not any(key in point.settings for point in points)]
    if unused:
        raise ValueError(f"none of the methods has what {unused[0]} varies")
    picture = dict(given.get("picture", {}))
    _check_picture(picture, vary)
    return Study(
        name, given["question"], seeds, given.get("windows", WINDOWS), tuple(points), picture, given.get("finding", "")
    )


def _check_picture(picture: Mapping[str, Any], vary: Mapping[str, Any]) -> None:
    _known(picture, PICTURE, "a picture")
    if not picture:
        return
    if not {"x", "y"} <= set(picture):
        raise ValueError('a picture has x and y, such as x = "recipe.steps", y = "loss_change_percent"')
    if picture["x"] not in (*vary, "step"):
        raise ValueError(f"a picture's x is what varies ({', '.join(vary)}) or step, not {picture['x']!r}")
    if picture["y"] not in FIGURES:
        raise ValueError(f"a picture's y is {', '.join(FIGURES)}, not {picture['y']!r}")
    if len(picture.get("published_x", [])) != len(picture.get("published_y", [])):
        raise ValueError("a picture's published_x and published_y are lists of the same length")


def _made(kind: Any, given: Mapping[str, Any]) -> Any:
    """Make a dataclass of what a config gives, whole numbers standing for floats too."""
    types = {each.name: str(each.type) for each in dataclasses.fields(kind)}
    _known(given, types, f"a {kind.__name__.lower()}")
    for name, value in given.items():
        wanted = {"int": (int,), "float": (int, float), "bool": (bool,)}.get(types[name], (str,))
        if not isinstance(value, wanted) or isinstance(value, bool) != (wanted == (bool,)):
            raise ValueError(f"{kind.__name__.lower()}.{name} is a {types[name]}, not {value!r}")
    return kind(**given)


def _known(given: Mapping[str, Any], names: Any, what: str) -> None:
    """Refuse a name that is not known, with the nearest that is."""
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, list(names), 1)
            meant = f"; do you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
            raise ValueError(f"{what} has no {name!r}{meant}")
