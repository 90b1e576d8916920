"""Studies as short config files: methods, settings to vary, seeds, and what the picture shows."""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from softmaxkit.methods.base.spec import Spec
from softmaxkit.recipe import FINE_TUNING_RATE, WINDOWS, Recipe, Shape
from softmaxkit.suggestions import suggestion

FOLDER = "softmaxkit.studies.configs"
"""The package's own studies."""

KEYS = ("question", "model", "seeds", "windows", "shape", "recipe", "methods", "vary", "picture", "finding")
PICTURE = ("x", "y", "published", "published_x", "published_y")
FIGURES = ("loss_change_percent", "perplexity_change_percent", "loss_nats", "perplexity", "row_sum_mean")
PARTS = ("shape", "recipe", "spec")
AS_IT_COMES = {"steps": 0, "learning_rate": FINE_TUNING_RATE}
"""What a recipe has by default where a model comes trained."""


@dataclass(frozen=True)
class Point:
    """One thing to train and measure, with every seed.

    Attributes:
        spec: the method.
        shape: the model.
        recipe: its training.
        settings: the settings that vary, by name, e.g. {"recipe.steps": 2000}.
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
        model: a pretrained causal language model, by folder, hub name or file; None trains one of each point's shape.
        seeds: every point is trained with each.
        windows: held-out windows to measure the loss on.
        points: in the order of the config.
        picture: what it shows: `x`, one of the settings that vary, or "step"; `y`, a figure; and, where a paper has
            such a curve, `published`, its name, with `published_x` and `published_y`.
        finding: a sentence or two for the page, once there is something to say.
    """

    name: str
    question: str
    model: str | None
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
        ValueError: there is no such study or file, or something in it is wrong; the message says where.
    """
    own = files(FOLDER) / f"{name}.toml"
    path = Path(name)
    if own.is_file():
        text, source = own.read_text(encoding="utf-8"), name
    elif path.suffix == ".toml" or path.is_file():
        try:
            text, source = path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read the study {path}: {getattr(error, 'strerror', None) or error}") from None
    else:
        raise ValueError(f"no study is called {name!r}; there are {', '.join(study_names())}, or give a .toml file")
    try:
        return _study(path.stem, tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValueError, TypeError) as error:
        raise ValueError(f"{source}: {error}") from None


def _study(name: str, config: Mapping[str, Any]) -> Study:
    _refuse_unknown(config, KEYS, "a study")
    for key in ("question", "methods"):
        if not config.get(key):
            raise ValueError(f"a study has {key}; this one has none")
    seeds = tuple(config.get("seeds", [0]))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds are given once each, not {list(seeds)}")
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ValueError(f"seeds are whole numbers, such as [0, 1, 2], not {list(seeds)}")
    vary = dict(config.get("vary", {}))
    for key, values in vary.items():
        part, _, field_name = key.partition(".")
        if part not in PARTS or not field_name:
            raise ValueError(
                f'settings that vary are called "recipe.steps", "shape.norm", "spec.beta0" or the like, not {key!r}'
            )
        if not isinstance(values, list) or not values:
            raise ValueError(f"{key} varies over a list of values, not {values!r}")
    points = tuple(dict.fromkeys(point for method in config["methods"] for point in _points(method, config, vary)))
    unused = [key for key in vary if key.startswith("spec.") and not any(key in point.settings for point in points)]
    if unused:
        raise ValueError(f"none of the methods has the field that {unused[0]} varies")
    picture = dict(config.get("picture", {}))
    _check_picture(picture, vary)
    windows, finding = config.get("windows", WINDOWS), config.get("finding", "")
    return Study(name, config["question"], _model(config, vary), seeds, windows, points, picture, finding)


def _model(config: Mapping[str, Any], vary: Mapping[str, Any]) -> str | None:
    """Return the pretrained model of a study, whose shape is its own; None where it has none."""
    model = config.get("model")
    if model is not None and not isinstance(model, str):
        raise ValueError(f"a study's model is a folder, hub name or file, not {model!r}")
    if model is not None and ("shape" in config or any(key.startswith("shape.") for key in vary)):
        raise ValueError(f"{model} comes with its shape; a study of it has no settings of shape")
    return model


def _points(method: Mapping[str, Any], config: Mapping[str, Any], vary: Mapping[str, list[Any]]) -> Iterator[Point]:
    """Yield the points of one method: all combinations of the settings that it has."""
    fields = {field.name for field in dataclasses.fields(Spec.from_json({"schema": 1, **method}))}
    own = {key: values for key, values in vary.items() if not key.startswith("spec.") or key[5:] in fields}
    for values in itertools.product(*own.values()):
        settings = dict(zip(own, values, strict=True))
        parts: dict[str, dict[str, Any]] = {
            "shape": dict(config.get("shape", {})),
            "recipe": {**(AS_IT_COMES if config.get("model") else {}), **config.get("recipe", {})},
            "spec": {"schema": 1, **method},
        }
        for key, value in settings.items():
            part, _, field_name = key.partition(".")
            parts[part][field_name] = value
        shape, recipe = _build(Shape, parts["shape"]), _build(Recipe, parts["recipe"])
        yield Point(Spec.from_json(parts["spec"]), shape, recipe, settings)


def _check_picture(picture: Mapping[str, Any], vary: Mapping[str, Any]) -> None:
    _refuse_unknown(picture, PICTURE, "a picture")
    if not picture:
        return
    if not {"x", "y"} <= set(picture):
        raise ValueError('a picture has x and y, such as x = "recipe.steps", y = "loss_change_percent"')
    if picture["x"] not in (*vary, "step"):
        raise ValueError(f"a picture's x is a setting that varies ({', '.join(vary)}) or step, not {picture['x']!r}")
    if picture["y"] not in FIGURES:
        raise ValueError(f"a picture's y is {', '.join(FIGURES)}, not {picture['y']!r}")
    if len(picture.get("published_x", [])) != len(picture.get("published_y", [])):
        raise ValueError("a picture's published_x and published_y are lists of the same length")


def _build(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """Build a dataclass from a part of a config; where it has floats, whole numbers will do."""
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    title = kind.__name__.lower()
    _refuse_unknown(values, types, f"a {title}")
    for name, value in values.items():
        allowed = {"int": (int,), "float": (int, float), "bool": (bool,)}.get(types[name], (str,))
        if not isinstance(value, allowed) or isinstance(value, bool) != (allowed == (bool,)):
            raise ValueError(f"{title}.{name} is a {types[name]}, not {value!r}")
    return kind(**values)


def _refuse_unknown(values: Mapping[str, Any], names: Collection[str], title: str) -> None:
    """Refuse a name that is not known, with the nearest that is."""
    for name in values:
        if name not in names:
            raise ValueError(f"{title} has no {name!r}; {suggestion(name, names)}")
