"""Which layers of a transformers configuration attend to the whole context, to a window of it, or not at all."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from softmaxkit.simulation.configuration import Configuration

WHOLE = frozenset({"full_attention", "attention", "hybrid", "global"})
"""Kinds of layers over the whole context, as keys of configurations name them."""

WINDOWS = {
    "sliding_attention": "sliding_window",
    "hybrid_sliding": "sliding_window",
    "chunked_attention": "attention_chunk_size",
    "local": "window_size",
}
"""Kinds of layers over a window, and the key of its length."""

WITHOUT = frozenset({"linear_attention", "conv", "mamba", "recurrent", "mlp", "moe"})
"""Kinds of layers without scores."""

UNPLACED = ("window_size", "sliding_windows", "attention_chunk_size", "num_windows")
"""Keys of windows in configurations that do not list the kinds of their layers."""


class Layers(NamedTuple):
    """Layers of a model.

    Attributes:
        whole: how many attend to the whole context.
        windows: of each further one, to how many keys it attends.
        left_out: what others are, and how many.
    """

    whole: int
    windows: tuple[int, ...]
    left_out: tuple[tuple[str, int], ...]


def layers_of(config: Configuration, layers: int) -> Layers:
    """Return the layers of a configuration by what they attend to.

    Args:
        config: its keys.
        layers: how many there are.

    Raises:
        ValueError: kinds that are not known, windows of which no key says where or how long they are, or no layer
            that attends to anything; the message names the key.
    """
    key = next((key for key in ("layer_types", "attention_layers") if config.get(key)), None)
    if key is None:
        return _unlisted(config, layers)
    kinds = Counter(config.get(key))
    names = ", ".join(sorted(map(str, kinds)))
    if unknown := sorted(map(str, kinds.keys() - WHOLE - WINDOWS.keys() - WITHOUT)):
        raise ValueError(f"{config.name}: {key} has the kinds {names}: the simulator does not know {unknown[0]}")
    windows = [_window(config, kind) for kind in kinds.elements() if kind in WINDOWS]
    whole = sum(kinds[kind] for kind in WHOLE)
    if not whole and not windows:
        raise ValueError(f"{config.name}: no layer attends to keys, {key} has the kinds {names} alone")
    without = sum(kinds[kind] for kind in WITHOUT)
    return Layers(whole, tuple(windows), (("without attention", without),) if without else ())


def _window(config: Configuration, kind: str) -> int:
    """Return to how many keys a layer of a kind attends."""
    window = config.number(WINDOWS[kind])
    if window is None:
        raise config.refuse(WINDOWS[kind], f"it is the window of layers of the kind {kind}, a whole number from 1")
    return window


def _unlisted(config: Configuration, layers: int) -> Layers:
    """Return the layers where no key lists their kinds."""
    if (both_sides := config.get("attention_window")) is not None:
        windows = both_sides if isinstance(both_sides, list) else [both_sides] * layers
        if len(windows) != layers or not all(type(window) is int and window > 1 for window in windows):
            raise config.refuse("attention_window", "it is a whole number from 2, or one for each layer")
        return Layers(0, tuple(window // 2 for window in windows), ())
    for key in UNPLACED:
        if config.get(key):
            raise config.refuse(key, "no key says which layers have windows")
    if config.get("use_sliding_window") is not False and config.get("sliding_window"):
        return Layers(0, (_window(config, "sliding_attention"),) * layers, ())
    if (kept := config.number("keep_window_size")) is not None:
        return Layers(0, (kept,) * layers, ())
    crossed = len(config.get("cross_attention_layers") or ())
    return Layers(layers - crossed, (), (("with cross-attention", crossed),) if crossed else ())
