"""ConSmax: learned constants in place of maximum and sum (Liu et al., ICCAD 2024, arXiv 2402.10930)."""

from softmaxkit.methods.consmax.constants import ConSmaxConstants
from softmaxkit.methods.consmax.spec import ConSmax

__all__ = ["ConSmax", "ConSmaxConstants"]
