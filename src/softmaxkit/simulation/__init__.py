"""Analytical accelerator model: cycles, time, energy and area of attention on engines with a softmax unit."""
