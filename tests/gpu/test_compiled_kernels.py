"""Every kernel compiles for A100, RTX 30 and H100, attention for B200 and RTX 50 too, without these cards, and fits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import BY_METHOD
from torch import Tensor

from softmaxkit import Exact, Exaq, Index
from softmaxkit.kernels import integers
from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.codes import Cached, Paged

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

import triton
from triton.compiler.errors import CompilationError

from machine_code import SHARED_MEMORY, TENSOR_MEMORY, Compiled, compiling_for
from softmaxkit.kernels.triton import attention, blocks, decode, quotients, rows
from softmaxkit.kernels.triton import integers as table_integers

BY_EXPONENTIAL = AttentionCall.by_exponential(torch.tensor(1.0), 1.0)
BY_LEVELS = AttentionCall.by_levels(-4.0, Exaq(bits=2).exponentials(-4.0))
FROM_ZERO = AttentionCall.by_levels(-6.6, Index().powers)
BY_SOFTMAX = AttentionCall.by_softmax(2.0)
BY_LOGISTIC = AttentionCall.by_logistic(torch.tensor(1.0))
MASK = torch.ones(300, 300, dtype=torch.bool)
CAPABILITIES = [pytest.param(80, marks=pytest.mark.slow), pytest.param(86, marks=pytest.mark.slow), 90]


@pytest.fixture(autouse=True)
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let launches pass that have tensors on the CPU."""
    for module in (attention, decode, rows, table_integers, quotients):
        monkeypatch.setattr(module, "on_device_of", lambda tensor: contextlib.nullcontext())
    monkeypatch.setattr(integers, "runs_on_gpu", lambda device: True)
    for name in ("exact", "softermax"):
        module = __import__(f"softmaxkit.methods.{name}.triton", fromlist=["on_device_of"])
        monkeypatch.setattr(module, "on_device_of", lambda tensor: contextlib.nullcontext())


def form(call: AttentionCall) -> str:
    return "levels from zero" if call is FROM_ZERO else call.form


def attention_of(call: AttentionCall, dtype: torch.dtype, channels: int, **how: Any) -> Callable[[], None]:
    def run() -> None:
        query, key, value = (torch.zeros(1, 4, 300, channels, dtype=dtype).requires_grad_() for _ in range(3))
        attention.attend(query, key, value, call, **how).sum().backward()

    return run


def codes_of(bits: int, page: int, channels: int) -> Cached:
    """Return codes of 2 heads, in one piece or in pages of some tokens."""
    shape = (19, 2, page) if page else (1, 2, 304)
    width, groups = (channels, 1) if bits == 8 else (channels // 2, -(-channels // 32))
    codes = torch.zeros(*shape, width, dtype=torch.int8 if bits == 8 else torch.uint8)
    steps = torch.zeros(*shape[:2], groups, shape[2], dtype=torch.float32 if bits == 8 else torch.bfloat16)
    if page:
        return Paged(codes, steps, channels, table=torch.zeros(1, 19, dtype=torch.int32), tokens=19 * page)
    return Cached(codes, steps, channels)


def decoding(
    call: AttentionCall, dtype: torch.dtype, bits: int, page: int = 0, heads: int = 8, channels: int = 128
) -> Callable[[], None]:
    def run() -> None:
        query, key = torch.zeros(1, heads, 1, channels, dtype=dtype), torch.zeros(1, 2, 300, channels, dtype=dtype)
        operand: Any = codes_of(bits, page, channels) if bits else key
        decode.attend(query, operand, operand, call, lengths=torch.ones(1, dtype=torch.int32) if page else None)

    return run


VERSION = tuple(map(int, triton.__version__.split(".")[:2]))
FRAME = 32
"""Bytes of local memory that a division of 64-bit floats may take, and a few registers."""
SPILLS_LITTLE = VERSION >= (3, 6)
"""Whether this is a Triton whose spills are limited here; earlier ones spill up to 2 KB in the backward kernels."""
FEW_SPILLS = 128
"""Bytes of it that kernels may take which wait for memory, not for registers; Triton 3.6 takes 104, 3.7 takes 64."""


MANY_SPILLS = 1024
"""Bytes of it that kernels may take on cards for whose matrix units they have too many numbers at once."""


def check(compiled: list[Compiled], capability: int, spills: int = FRAME) -> None:
    assert compiled
    for kernel in compiled:
        assert f".target sm_{capability}" in kernel.ptx
        assert kernel.options["enable_fp_fusion"], kernel.name  # whatever the default of this Triton
        assert kernel.shared <= SHARED_MEMORY[capability], kernel.name
        assert kernel.tensor_memory <= TENSOR_MEMORY, kernel.name
        assert kernel.stack <= (spills if SPILLS_LITTLE else 2048), kernel.name


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    "how",
    [{}, {"is_causal": True}, {"mask": MASK}, {"is_causal": True, "dropout": 0.1}],
    ids=["all", "causal", "mask", "dropout"],
)
@pytest.mark.parametrize("call", [BY_EXPONENTIAL, BY_LEVELS, BY_LOGISTIC, FROM_ZERO], ids=form)
def test_attention(call: AttentionCall, how: dict[str, Any], capability: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "shared_memory", lambda device: SHARED_MEMORY[capability])
    with compiling_for(capability) as compiled:
        attention_of(call, torch.bfloat16, 128, **how)()
    assert [kernel.name for kernel in compiled] == ["attention_forward", "queries_backward", "keys_backward"]
    # Masks, random numbers and levels take registers, which older matrix units leave fewer of. On an H200 the blocks
    # that spill some of levels were the fastest all the same.
    few = capability == 90 and call not in (BY_LEVELS, FROM_ZERO) and not {"mask", "dropout"} & set(how)
    # The backward kernel of keys takes 56 with logistic functions, and by 3.9 80.
    least = FRAME if VERSION < (3, 9) and call is BY_EXPONENTIAL else FEW_SPILLS
    check(compiled, capability, spills=least if few else MANY_SPILLS)
    if capability == 90:
        assert all("wgmma" in kernel.ptx for kernel in compiled)  # Hopper's own matrix unit


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 86, 90, 100, 120])
@pytest.mark.parametrize("channels", [16, 64, 80, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("call", [BY_EXPONENTIAL, BY_LEVELS, BY_LOGISTIC, FROM_ZERO], ids=form)
def test_attention_of_every_size_and_dtype(
    call: AttentionCall, dtype: torch.dtype, channels: int, capability: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "shared_memory", lambda device: SHARED_MEMORY[capability])
    with compiling_for(capability) as compiled:
        attention_of(call, dtype, channels, is_causal=True)()
    # Blocks were chosen for cards up to 9.0; for later ones the compiler keeps more of float32 with 256 channels.
    check(compiled, capability, spills=MANY_SPILLS if capability <= 90 else 2 * MANY_SPILLS)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("bits", [0, 8, 4])
@pytest.mark.parametrize("call", [BY_EXPONENTIAL, BY_LEVELS, BY_SOFTMAX, BY_LOGISTIC, FROM_ZERO], ids=form)
def test_decoding(call: AttentionCall, bits: int, capability: int) -> None:
    if call is BY_SOFTMAX and not bits:
        pytest.skip("softmax of keys as they come is torch's own")
    with compiling_for(capability) as compiled:
        decoding(call, torch.bfloat16, bits)()
    assert [kernel.name for kernel in compiled][-2:] == ["decode_split", "decode_merge"]
    check(compiled, capability, spills=FEW_SPILLS)


def test_decoding_of_256_channels_in_float32_fits() -> None:
    """A key takes 1 KiB there, and so do its values: 64 of them in flight would not fit."""
    with compiling_for(90) as compiled:
        decoding(BY_EXPONENTIAL, torch.float32, 0, channels=256)()
    check(compiled, 90)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [86, 90, 100])
@pytest.mark.parametrize("channels", [64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_decoding_of_every_size_and_dtype(dtype: torch.dtype, channels: int, capability: int) -> None:
    """A100's kernels are those of RTX 30, with more shared memory; softmax's take more of it than exponentials'."""
    with compiling_for(capability) as compiled:
        for bits in (0, 8, 4):
            for call in (BY_LEVELS, BY_SOFTMAX if bits else BY_EXPONENTIAL):
                decoding(call, dtype, bits, channels=channels)()
                if bits:
                    decoding(call, dtype, bits, heads=2, channels=channels)()
    assert {kernel.name for kernel in compiled} == {"decode_split", "decode_single", "decode_merge"}
    check(compiled, capability, spills=MANY_SPILLS if dtype == torch.float32 else 256)


@pytest.mark.parametrize("splits", [256, pytest.param(3, marks=pytest.mark.slow)])
def test_merging_any_number_of_parts_fits(splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "split", lambda *given: (splits, 64))
    with compiling_for(90) as compiled:
        decoding(BY_SOFTMAX, torch.bfloat16, 8, channels=256)()
    assert [kernel.name for kernel in compiled] == ["decode_split", "decode_merge"]
    check(compiled[1:], 90)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("page", [0, 16, pytest.param(48, marks=pytest.mark.slow)])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("call", [BY_EXPONENTIAL, BY_LEVELS, BY_SOFTMAX, BY_LOGISTIC, FROM_ZERO], ids=form)
def test_decoding_of_one_query_of_a_head(call: AttentionCall, bits: int, page: int, capability: int) -> None:
    with compiling_for(capability) as compiled:
        decoding(call, torch.bfloat16, bits, page, heads=2)()
    assert [kernel.name for kernel in compiled][-2:] == ["decode_single", "decode_merge"]
    check(compiled, capability, spills=FEW_SPILLS)
    # Codes are fetched by 16 bytes, and never one by one.
    assert "cp.async.cg.shared.global" in compiled[-2].ptx
    assert not any(byte in kernel.ptx for kernel in compiled[:-1] for byte in ("ld.global.b8", "ld.shared.b8", ".s8 %"))


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_decoding_in_pages_by_the_matrix_unit(dtype: torch.dtype, bits: int, capability: int) -> None:
    with compiling_for(capability) as compiled:
        decoding(BY_EXPONENTIAL, dtype, bits, page=16)()
    assert [kernel.name for kernel in compiled] == ["decode_split", "decode_merge"]
    check(compiled, capability, spills=FEW_SPILLS)
    # Codes are not fetched one by one, which would be dozens; Triton 3.8 exchanges a few booleans.
    assert sum(compiled[0].ptx.count(byte) for byte in ("ld.global.b8", "ld.shared.b8")) <= 4


def row_calls(scores: Tensor, mask: Tensor | None) -> Iterator[Callable[[], Any]]:
    offset = torch.zeros(3)
    yield lambda: rows.softmax(scores, mask)
    yield lambda: rows.softmax(scores, mask, is_causal=True)
    yield lambda: rows.softmax_backward(scores, scores)
    yield lambda: rows.exponential(scores, offset, 1.0, mask=mask)
    yield lambda: rows.exponential_backward(scores, scores, offset, 1.0, mask=mask)
    yield lambda: rows.logistic(scores, offset, mask)
    yield lambda: rows.logistic_backward(scores, scores, offset, mask)
    yield lambda: rows.levels(scores, -4.0, Exaq(bits=3).exponentials(-4.0), mask)
    yield lambda: rows.level_table(scores, -6.6, Index().powers, mask)
    yield lambda: rows.levels_backward(scores, scores, scores, -4.0, mask)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("keys", [100, 10000, 65536])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows(dtype: torch.dtype, keys: int, capability: int) -> None:
    scores = torch.zeros(2, 3, 4, keys, dtype=dtype)
    with compiling_for(capability) as compiled:
        for call in (*row_calls(scores, None), *row_calls(scores, torch.ones(4, keys, dtype=torch.bool))):
            call()
    assert len(compiled) == 20
    check(compiled, capability)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("method", ["consmax", "softermax", "exaq", "index", "exact", "online"])
def test_integers(method: str, capability: int) -> None:
    case = BY_METHOD["exact" if method == "online" else method].default
    spec = Exact(schedule="online") if method == "online" else case.spec
    module = spec.module(heads=3, mode="integer", **case.numbers)
    kernel = module.integer_call(module.constants)
    assert kernel is not None
    with compiling_for(capability) as compiled:
        kernel(torch.zeros(2, 3, 4, 100))
        kernel(torch.zeros(2, 3, 4, 100), torch.ones(4, 100, dtype=torch.bool))
    check(compiled, capability)
    assert all("sqrt" not in kernel.ptx and "div.full" not in kernel.ptx for kernel in compiled)


def test_a_kernel_that_does_not_compile_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "width", lambda channels: channels)  # not a power of two
    with compiling_for(90), pytest.raises(CompilationError):
        attention_of(BY_EXPONENTIAL, torch.bfloat16, 80)()
