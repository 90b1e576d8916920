"""EXAQ: a 2 to 4-bit input of exp, clipped analytically, summed by tables (Shkolnik et al., arXiv 2410.03185)."""

from softmaxkit.methods.exaq.constants import ExaqConstants
from softmaxkit.methods.exaq.spec import Exaq

__all__ = ["Exaq", "ExaqConstants"]
