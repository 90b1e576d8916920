"""Hugging Face models: methods in and out, calibration, checkpoints, training and evaluation."""

from softmaxkit.models.calibration import calibrate, convert
from softmaxkit.models.checkpoint import load, save
from softmaxkit.models.patch import apply, layers, restore, set_mode

__all__ = ["apply", "calibrate", "convert", "layers", "load", "restore", "save", "set_mode"]
