"""Interfaces that every method implements: spec and constants, torch module, hardware unit, partial results."""
