"""Kernels in Triton, for NVIDIA's cards; interpreted on the CPU with TRITON_INTERPRET=1, as the tests do.

Only what `softmaxkit.kernels.backends` chose calls them: their modules import triton.
"""
