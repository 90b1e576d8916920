"""Kernels, grouped by what they compute, and the back ends that run them; without native kernels, torch is used."""
