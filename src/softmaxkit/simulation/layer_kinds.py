"""Kinds of layers in a transformers configuration: attention over the whole context, over a window, or none."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from softmaxkit.simulation.configuration import Configuration

WHOLE = frozenset({"full_attention", "attention", "hybrid", "global"})
"""Names in configurations of layers that attend to the whole context."""

WINDOWS = {
    "sliding_attention": "sliding_window",
    "hybrid_sliding": "sliding_window",
    "chunked_attention": "attention_chunk_size",
    "local": "window_size",
}
"""Names of layers that attend to a window, with the key of the window's length."""

WITHOUT = frozenset({"linear_attention", "conv", "mamba", "recurrent", "mlp", "moe"})
"""Names of layers without attention scores."""

UNPLACED = ("window_size", "sliding_windows", "attention_chunk_size", "num_windows")
"""Keys that indicate windows without stating which layers have them."""


class Layers(NamedTuple):
    """The layers of a model by what they attend to.

    Attributes:
        whole: number of layers that attend to the whole context.
        windows: window length in keys of each layer that attends to a window.
        left_out: descriptions and numbers of the other layers, which are not simulated.
    """

    whole: int
    windows: tuple[int, ...]
    left_out: tuple[tuple[str, int], ...]


def layers_of(config: Configuration, layers: int) -> Layers:
    """Return the layers of a configuration by what they attend to.

    Args:
        config: the configuration.
        layers: number of layers.

    Raises:
        ValueError: a kind is unknown, no key gives the place or length of windows, or no layer has attention; the
            message names the key.
    """
    key = next((key for key in ("layer_types", "attention_layers") if config.get(key)), None)
    if key is None:
        return _unlisted(config, layers)
    kinds = Counter(config.get(key))
    names = ", ".join(sorted(map(str, kinds)))
    if unknown := sorted(map(str, kinds.keys() - WHOLE - WINDOWS.keys() - WITHOUT)):
        raise ValueError(f"{config.name}: {key} has the kinds {names}; the simulator does not know {unknown[0]}")
    windows = [_window(config, kind) for kind in kinds.elements() if kind in WINDOWS]
    whole = sum(kinds[kind] for kind in WHOLE)
    if not whole and not windows:
        raise ValueError(f"{config.name}: no layer has attention; {key} has only the kinds {names}")
    without = sum(kinds[kind] for kind in WITHOUT)
    return Layers(whole, tuple(windows), (("without attention", without),) if without else ())


def _window(config: Configuration, kind: str) -> int:
    """Return the window length, in keys, of layers of a kind."""
    window = config.number(WINDOWS[kind])
    if window is None:
        raise config.refuse(WINDOWS[kind], f"layers of the kind {kind} need a window, an integer of at least 1")
    return window


def _unlisted(config: Configuration, layers: int) -> Layers:
    """Return the layers of a configuration without a key that lists their kinds."""
    if (both_sides := config.get("attention_window")) is not None:
        windows = both_sides if isinstance(both_sides, list) else [both_sides] * layers
        if len(windows) != layers or not all(type(window) is int and window > 1 for window in windows):
            raise config.refuse("attention_window", "it must be an integer of at least 2, or one for each layer")
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
