"""Attention by a method without the whole matrix of scores: in one call, with a cache of 8 or 4 bits, or over some keys."""
