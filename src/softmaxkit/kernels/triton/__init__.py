"""Triton kernels for NVIDIA GPUs; TRITON_INTERPRET=1 interprets them on the CPU, as the tests do.

Import them only once `softmaxkit.kernels.backends` has chosen them: their modules import triton.
"""
