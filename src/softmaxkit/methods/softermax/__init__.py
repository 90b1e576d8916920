"""Softermax: base 2, an integer running maximum, shifts for rescaling (Stevens et al., arXiv 2103.09301)."""

from softmaxkit.methods.softermax.spec import Softermax

__all__ = ["Softermax"]
