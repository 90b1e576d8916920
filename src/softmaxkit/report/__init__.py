"""The HTML report: a record of a comparison in, one self-contained page out."""

from softmaxkit.report.page import render

__all__ = ["render"]
