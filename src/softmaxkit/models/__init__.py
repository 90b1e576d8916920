"""Hugging Face models: methods in and out, calibration, checkpoints, training and evaluation."""

from softmaxkit.models.attention import apply, layers, restore, set_mode
from softmaxkit.models.calibration import calibrate
from softmaxkit.models.checkpoint import load, save

__all__ = ["apply", "calibrate", "layers", "load", "restore", "save", "set_mode"]
