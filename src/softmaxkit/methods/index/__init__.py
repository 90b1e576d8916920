"""IndexSoftmax: exp by an 8-bit table of 32 entries, clipped, in integers (Zhong et al., arXiv 2511.21513)."""

from softmaxkit.methods.index.spec import Index

__all__ = ["Index"]
