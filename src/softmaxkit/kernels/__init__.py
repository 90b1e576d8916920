"""Kernels by what they compute, and the back ends that run them; without native ones all works through torch."""
