"""Layers as they are asked for: by number, in the order in which a model runs them, or by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from softmaxkit.suggestions import suggestion


def wanted_layers(layers: Any) -> list[int | str] | None:
    """Return which layers are asked for, as numbers and names; None for all.

    Raises:
        TypeError: they are neither.
        ValueError: there are none.
    """
    if layers is None:
        return None
    several = isinstance(layers, Iterable) and not isinstance(layers, str)
    wanted: list[int | str] = []
    for layer in layers if several else [layers]:
        if isinstance(layer, bool) or not (isinstance(layer, str) or hasattr(layer, "__index__")):
            raise TypeError(
                f"layers are numbers, as 0 or range(4), or names, as softmaxkit.layers(model) has them, not {layer!r}"
            )
        wanted.append(layer if isinstance(layer, str) else int(layer))
    if not wanted:
        raise ValueError("layers names no layer; leave it out for all of them")
    return wanted


def layer_names(model: nn.Module, candidates: Iterable[tuple[nn.Module, int]]) -> list[str]:
    """Return the names of attention layers in a model."""
    names = {id(module): name for name, module in model.named_modules()}
    return [names[id(module)] for module, _ in candidates]


def chosen_layers(wanted: list[int | str] | None, names: list[str]) -> list[int]:
    """Return the numbers of the layers that are asked for.

    Raises:
        ValueError: there is no such layer.
    """
    if wanted is None:
        return list(range(len(names)))
    chosen = set()
    for layer in wanted:
        if isinstance(layer, str):
            if layer not in names:
                raise ValueError(f"no layer {layer!r}; {suggestion(layer, names)}; {_range(names)}")
            chosen.add(names.index(layer))
        elif not 0 <= layer < len(names):
            raise ValueError(f"no layer {layer}: {_range(names)}")
        else:
            chosen.add(layer)
    return sorted(chosen)


def _range(names: list[str]) -> str:
    """Say which layers there are."""
    if len(names) == 1:
        return f"the model has 1 attention layer, 0, called {names[0]}"
    last = len(names) - 1
    return f"the model has {len(names)} attention layers, 0 to {last}, called {names[0]} to {names[last]}"
