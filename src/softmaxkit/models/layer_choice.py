"""Resolve the `layers` argument of `apply`: indices in the order in which a model runs its layers, or names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from softmaxkit.suggestions import suggestion


def wanted_layers(layers: Any) -> list[int | str] | None:
    """Return the requested layers as a list of indices and names; None for all layers.

    Raises:
        TypeError: an item is neither an index nor a name.
        ValueError: the list is empty.
    """
    if layers is None:
        return None
    several = isinstance(layers, Iterable) and not isinstance(layers, str)
    wanted: list[int | str] = []
    for layer in layers if several else [layers]:
        if isinstance(layer, bool) or not (isinstance(layer, str) or hasattr(layer, "__index__")):
            raise TypeError(
                f"layers must be indices, such as 0 or range(4), or names, the keys of softmaxkit.layers(model), "
                f"got {layer!r}"
            )
        wanted.append(layer if isinstance(layer, str) else int(layer))
    if not wanted:
        raise ValueError("layers is empty; leave it out to choose all layers")
    return wanted


def layer_names(model: nn.Module, candidates: Iterable[tuple[nn.Module, int]]) -> list[str]:
    """Return the names of attention layers in a model."""
    names = {id(module): name for name, module in model.named_modules()}
    return [names[id(module)] for module, _ in candidates]


def chosen_layers(wanted: list[int | str] | None, names: list[str]) -> list[int]:
    """Return the indices of the requested layers, in ascending order.

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
    """Describe which layers the model has."""
    if len(names) == 1:
        return f"the model has 1 attention layer, 0, called {names[0]}"
    last = len(names) - 1
    return f"the model has {len(names)} attention layers, 0 to {last}, called {names[0]} to {names[last]}"
