"""Attention by a method without the whole matrix of scores: in one call, over a cache of codes, or over some keys."""
