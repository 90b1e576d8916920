"""A small method, not part of the package: powers of two with one offset, `p = 2**min(score - offset, 0)`."""

from powers.spec import Powers

__all__ = ["Powers"]
