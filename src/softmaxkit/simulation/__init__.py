"""The accelerator on paper: cycles, time, energy and area of attention on engines that hold a softmax unit."""
