"""Compile Triton kernels to machine code, instead of launching them, for cards that are not present.

Kernels are compiled with the arguments that their callers pass, with CPU tensors in place of those on a card.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from softmaxkit.kernels.triton import launch

SHARED_MEMORY = {80: 163 * 1024, 86: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
"""Bytes of shared memory that a block may have, by compute capability; NVIDIA's CUDA C++ Programming Guide."""
TENSOR_MEMORY = 512
"""Columns of tensor memory that a block may have, on cards that have any."""


@dataclass(frozen=True)
class Compiled:
    """A kernel's machine code.

    Attributes:
        name: of the kernel.
        shared: bytes of shared memory.
        tensor_memory: columns of tensor memory.
        registers: of a thread.
        stack: bytes of local memory of a thread, to which registers spill.
        ptx: its assembly.
        binary: what the card would run, a cubin.
        options: of its launch, and its named arguments.
    """

    name: str
    shared: int
    tensor_memory: int
    registers: int
    stack: int
    ptx: str
    binary: bytes
    options: dict[str, Any]


@contextlib.contextmanager
def compiling_for(capability: int) -> Iterator[list[Compiled]]:
    """Compile instead of launching; gives the list of what was compiled."""
    compiled: list[Compiled] = []
    target = GPUTarget("cuda", capability, 32)
    # Triton keeps compiled kernels by device: every capability is one of its own here.
    card = SimpleNamespace(
        get_current_target=lambda: target,
        get_current_device=lambda: capability,
        get_current_stream=lambda device: 0,
        get_active_torch_device=lambda: "cpu",
    )

    def compile_it(self: Any, grid: Any) -> Callable[..., None]:
        assert all(isinstance(size, int) for size in grid)

        def launch_nothing(*args: Any, **options: Any) -> None:
            compiled.append(_compiled(self.run(*args, grid=grid, warmup=True, **options), options))

        return launch_nothing

    before = dict(vars(driver))  # whose names differ between versions of Triton
    driver.set_active(card)
    try:
        with (
            mock.patch.object(JITFunction, "__getitem__", compile_it),
            mock.patch.object(launch, "is_interpreted", return_value=False),
            mock.patch.object(launch, "has_copy_engine", return_value=capability >= 90),
        ):
            yield compiled
    finally:
        vars(driver).update(before)


def _compiled(kernel: Any, options: dict[str, Any]) -> Compiled:
    """Read what a kernel takes from its machine code."""
    usage = _read(kernel.asm["cubin"], "cuobjdump", "--dump-resource-usage")
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK):(\d+)", usage)}
    about, tensor_memory = kernel.metadata, getattr(kernel.metadata, "tmem_size", 0)
    sizes = (about.shared, tensor_memory, numbers["REG"], numbers["STACK"])
    return Compiled(about.name, *sizes, kernel.asm["ptx"], kernel.asm["cubin"], options)


def _read(binary: bytes, tool: str, *options: str) -> str:
    """Return what one of the tools that come with Triton prints of a cubin."""
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        return subprocess.run([path, *options, file.name], capture_output=True, text=True, check=True).stdout


def main_loop(compiled: Compiled) -> int:
    """Return the number of instructions in the longest loop of a kernel's machine code."""
    return longest_loop(_read(compiled.binary, "nvdisasm", "-c"))


def longest_loop(listing: str) -> int:
    """Return the number of instructions in the longest loop of a listing by nvdisasm, from a label to a jump back.

    Raises:
        ValueError: there is no loop.
    """
    count, labels, loops = 0, dict[str, int](), list[int]()
    for line in listing.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = count
        elif instruction := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*);", line):
            count += 1
            jump = re.search(r"\bBRA\b.*`\((\.L_\w+)\)", instruction[1])
            if jump and jump[1] in labels:
                loops.append(count - labels[jump[1]])
    if not loops:
        raise ValueError("there is no loop in this machine code")
    return max(loops)
