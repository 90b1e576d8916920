"""Sigmoid attention: each score on its own, with a bias of minus log n (Ramapuram et al., arXiv 2409.04431)."""

from softmaxkit.methods.sigmoid.spec import Sigmoid, SigmoidConstants

__all__ = ["Sigmoid", "SigmoidConstants"]
