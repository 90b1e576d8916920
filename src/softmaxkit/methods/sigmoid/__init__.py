"""Sigmoid attention: element-wise, with a bias of -log n (Ramapuram et al., arXiv 2409.04431)."""

from softmaxkit.methods.sigmoid.spec import Sigmoid, SigmoidConstants

__all__ = ["Sigmoid", "SigmoidConstants"]
