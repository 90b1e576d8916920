"""Attention by a method: in one call, with an 8-bit cache, or over a part of the keys at a time."""
