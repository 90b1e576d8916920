"""What `trained` of a spec decides: the mode that its model trains in, and which settings of the recipe count."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from softmaxkit import ConSmax, Exaq, Softermax, Spec
from softmaxkit.methods import BASELINE
from softmaxkit.recipe import Recipe
from softmaxkit.studies.preparation import Preparation, _training_mode

RECIPE = Recipe(homotopy=0.5, key_fit=True, constants_rate=3.0)
PLAIN = replace(RECIPE, homotopy=0.0, key_fit=False, constants_rate=1.0)


@pytest.mark.parametrize(
    ("spec", "trained", "mode", "recipe"),
    [
        (ConSmax(), "from scratch", "float", RECIPE),
        (Softermax(), "fine-tuned", "integer", PLAIN),
        (Exaq(), "calibrated", "float", PLAIN),
        (BASELINE, "from scratch", "float", PLAIN),
    ],
)
def test_the_mode_and_the_recipe_follow_from_how_a_method_is_trained(
    spec: Spec, trained: str, mode: str, recipe: Recipe
) -> None:
    options: Any = SimpleNamespace(recipe=RECIPE, model=None)
    windows: Any = None
    assert spec.training == trained
    assert _training_mode(spec) == mode
    assert Preparation(options, windows, print)._recipe(spec) == recipe
