"""Hugging Face models: methods in and out, calibration, checkpoints, training and evaluation.

Importing this package registers the methods with transformers: its `from_pretrained` then restores the methods of a
checkpoint, and its `save_pretrained` and `Trainer` write them.
"""

from softmaxkit.models.cache import QuantisedCache
from softmaxkit.models.calibration import calibrate, convert
from softmaxkit.models.checkpoint import load, save
from softmaxkit.models.fused import fused_layers
from softmaxkit.models.hooks import install
from softmaxkit.models.patch import apply, layers, restore, set_mode

__all__ = [
    "QuantisedCache",
    "apply",
    "calibrate",
    "convert",
    "fused_layers",
    "layers",
    "load",
    "restore",
    "save",
    "set_mode",
]

install()
