"""Kernels by what they compute, and the back ends that run them; without native ones the package works through torch."""
