"""Exact softmax: online in software (Milakov & Gimelshein, arXiv 1805.02867), an FP16 baseline unit in hardware."""

from softmaxkit.methods.exact.spec import Exact

__all__ = ["Exact"]
