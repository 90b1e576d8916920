"""Studies defined by short config files: methods, settings to vary, seeds, and what the picture shows."""

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
"""The package of the built-in studies."""

KEYS = ("question", "model", "seeds", "windows", "shape", "recipe", "methods", "vary", "picture", "finding")
TABLES = {"methods": list, "seeds": list, "shape": dict, "recipe": dict, "vary": dict, "picture": dict}
PICTURE = ("x", "y", "published", "published_x", "published_y")
FIGURES = ("loss_change_percent", "perplexity_change_percent", "loss_nats", "perplexity", "row_sum_mean")
PARTS = ("shape", "recipe", "spec")
AS_IT_COMES = {"steps": 0, "learning_rate": FINE_TUNING_RATE}
"""Default settings of a recipe for a pretrained model."""


@dataclass(frozen=True)
class Point:
    """One configuration to train and measure, with every seed.

    Attributes:
        spec: the method.
        shape: the model's dimensions.
        recipe: hyperparameters of its training.
        settings: this point's values of the settings that vary, e.g. {"recipe.steps": 2000}.
    """

    spec: Spec
    shape: Shape
    recipe: Recipe
    settings: dict[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Study:
    """A question, and the points whose figures answer it.

    Attributes:
        name: name of the config.
        question: the question, in one sentence.
        model: a pretrained causal language model, by folder, hub name or file; None trains one of each point's shape.
        seeds: every point is trained with each of them.
        windows: number of held-out windows on which the loss is measured.
        points: the points, in the order of the config.
        picture: the plot: `x`, one of the settings that vary, or "step"; `y`, a figure; and, if a paper has such a
            curve, `published`, its name, with `published_x` and `published_y`.
        finding: the answer, in a sentence or two, for the page; empty until there is one.
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
    """Return the names of the built-in studies."""
    return sorted(file.name.removesuffix(".toml") for file in files(FOLDER).iterdir() if file.name.endswith(".toml"))


def read_study(name: str) -> Study:
    """Read a study: a built-in one by name, or a TOML file.

    Args:
        name: name or path.

    Raises:
        ValueError: there is no such study or file, or one of its entries is invalid; the message names the entry.
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
        raise ValueError(f"there is no study {name!r}; {suggestion(name, study_names())}; or give a .toml file")
    try:
        return _study(path.stem, tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValueError, TypeError) as error:
        raise ValueError(f"{source}: {error}") from None


def _study(name: str, config: Mapping[str, Any]) -> Study:
    _refuse_unknown(config, KEYS, "a study")
    for key in ("question", "methods"):
        if not config.get(key):
            raise ValueError(f"a study needs {key}; this one has none")
    for key, kind in TABLES.items():
        if not isinstance(config.get(key, kind()), kind):
            raise ValueError(f"{key} must be a {'list' if kind is list else 'table'}, got {config[key]!r}")
    if not all(isinstance(method, dict) for method in config["methods"]):
        raise ValueError(f'methods must be tables such as method = "exact" under [[methods]], got {config["methods"]}')
    for key in ("question", "finding"):
        if not isinstance(config.get(key, ""), str):
            raise ValueError(f"{key} must be a text, got {config[key]!r}")
    windows = config.get("windows", WINDOWS)
    if type(windows) is not int or windows < 1:
        raise ValueError(f"windows must be a whole number from 1, got {windows!r}")
    seeds = tuple(config.get("seeds", [0]))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"each seed must occur only once, got {list(seeds)}")
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ValueError(f"seeds must be whole numbers from 0, such as [0, 1, 2], got {list(seeds)}")
    vary = dict(config.get("vary", {}))
    for key, values in vary.items():
        part, _, field_name = key.partition(".")
        if part not in PARTS or not field_name:
            raise ValueError(
                f'settings that vary must be named like "recipe.steps", "shape.norm" or "spec.beta0", got {key!r}'
            )
        if not isinstance(values, list) or not values:
            raise ValueError(f"{key} must be a list of values, got {values!r}")
    points = tuple(dict.fromkeys(point for method in config["methods"] for point in _points(method, config, vary)))
    unused = [key for key in vary if key.startswith("spec.") and not any(key in point.settings for point in points)]
    if unused:
        raise ValueError(f"{unused[0]} varies, but none of the methods has this field")
    picture = dict(config.get("picture", {}))
    _check_picture(picture, vary)
    model = _model(config, vary)
    return Study(name, config["question"], model, seeds, windows, points, picture, config.get("finding", ""))


def _model(config: Mapping[str, Any], vary: Mapping[str, Any]) -> str | None:
    """Return a study's pretrained model, which excludes settings of shape; None if it has none."""
    model = config.get("model")
    if model is not None and not isinstance(model, str):
        raise ValueError(f"a study's model must be a folder, hub name or file, got {model!r}")
    if model is not None and ("shape" in config or any(key.startswith("shape.") for key in vary)):
        raise ValueError(f"the shape of {model} is fixed; remove the settings of shape from this study")
    return model


def _points(method: Mapping[str, Any], config: Mapping[str, Any], vary: Mapping[str, list[Any]]) -> Iterator[Point]:
    """Yield the points of one method: all combinations of the settings that apply to it."""
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
        raise ValueError('a picture needs x and y, such as x = "recipe.steps", y = "loss_change_percent"')
    if picture["x"] not in (*vary, "step"):
        choices = ", ".join((*vary, "step"))
        raise ValueError(f"a picture's x must be a setting that varies or step ({choices}), got {picture['x']!r}")
    if picture["y"] not in FIGURES:
        raise ValueError(f"a picture's y must be one of {', '.join(FIGURES)}, got {picture['y']!r}")
    if len(picture.get("published_x", [])) != len(picture.get("published_y", [])):
        raise ValueError("a picture's published_x and published_y must be lists of equal length")


def _build(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """Build a dataclass from a section of a config; its floats accept whole numbers too."""
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    title = kind.__name__.lower()
    _refuse_unknown(values, types, f"a {title}")
    for name, value in values.items():
        allowed = {"int": (int,), "float": (int, float), "bool": (bool,)}.get(types[name], (str,))
        if not isinstance(value, allowed) or isinstance(value, bool) != (allowed == (bool,)):
            raise ValueError(f"{title}.{name} must be of type {types[name]}, got {value!r}")
    return kind(**values)


def _refuse_unknown(values: Mapping[str, Any], names: Collection[str], title: str) -> None:
    """Raise a ValueError for an unknown name, which suggests the nearest known one."""
    for name in values:
        if name not in names:
            raise ValueError(f"{title} has no {name!r}; {suggestion(name, names)}")
