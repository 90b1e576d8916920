"""Attention by a method without the whole matrix of scores: in one call, with an 8-bit cache, or over some keys."""
