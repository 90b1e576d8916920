"""Forms of every method that have kernels for their integers, rows that try them, and golden beside them."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

import torch
from cases import BY_METHOD
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from softmaxkit import FP16, UQ, ConSmax, Exact, Exaq, Float, Index, Q, Sigmoid, Softermax, Spec
from softmaxkit.kernels.integers import IntegerCall
from softmaxkit.methods import METHODS, method_class
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import attended_keys

HEADS = 3
PER_HEAD: dict[str, Any] = {"beta": [0.5, 1.5, -1.0], "gamma": [9.0, 5.0, 0.7]}
NUMBERS: dict[str, dict[str, Any]] = {
    **{name: dict(cases.default.numbers) for name, cases in BY_METHOD.items()},
    "consmax": {**PER_HEAD, "scale": [0.07, 1 / 16, 0.031]},
}
FORMS: list[tuple[Spec, dict[str, Any]]] = [
    *(
        (spec, PER_HEAD if spec == ConSmax(tables="shift") else NUMBERS[name])  # which has one scale alone
        for name in METHODS
        for spec in method_class(name).variants()
    ),
    (Exact(schedule="online"), {}),
    (Exact(schedule="online", slice_width=5, format=Float(5, 7), exponential_segments=16), {}),
    (Exact(format=Float(5, 12), reciprocal_segments=8), {}),
    (Exact(format=Float(4, 3), exponential_segments=8, reciprocal_segments=8), {}),
    (ConSmax(table_format=FP16, constant="multiplied", output_bits=16), {"beta": 0.1, "gamma": 20.0, "scale": 0.2}),
    (ConSmax(bits=16, product_bits=24, share="layer"), {"beta": 0.5, "gamma": 9.0, "scale": 1 / 4096}),
    (ConSmax(bits=16, table_format=UQ(0, 10), output_bits=16), {**PER_HEAD, "scale": 1 / 3000}),
    (ConSmax(table_format=UQ(0, 9), ceiling=3.0), PER_HEAD),
    (ConSmax(tables="whole"), {**PER_HEAD, "largest": [0.2, 1.0, 0.01]}),
    (Exact(exponential_segments=1, taylor_degree=3), {}),
    (Sigmoid(scores=Q(5, 5), output=UQ(0, 8)), {"bias": [-5.5, 0.0, 2.5]}),
    (Index(bits=8, clip=13.2, table_bits=16, output_bits=16, scores=Q(8, 8), reciprocal=UQ(1, 18)), {}),
    (Index(bits=2, clip=3.0, scores=Q(6, 2), output_bits=2, reciprocal=UQ(1, 4), reciprocal_segments=1), {}),
    (Softermax(maximum="global", integer_maximum="floor", rounding="floor"), {}),
    (Softermax(input=Q(6, 4), power_segments=8, output=UQ(1, 15), slice_width=32), {}),
    (Softermax(input=Q(6, 10), unnormalised=UQ(1, 23), reciprocal=UQ(1, 20), output=UQ(1, 24), slice_width=7), {}),
    (Softermax(power_sum=UQ(4, 12), integer_maximum="floor", log2e=True), {}),
    (Exaq(bits=3, scale="calibrated", accumulator="histogram"), {"clip": -6.3, "scale": 0.11}),
    (Exaq(bits=4, accumulator="plain", scores=Q(5, 11), output=UQ(1, 20), reciprocal=UQ(1, 12)), {"clip": -8.0}),
]
IDS = [f"{spec.method} {spec.variant}".strip() for spec, _ in FORMS]
DEFAULTS = [next(form for form in FORMS if form[0].method == name) for name in METHODS]


def module_of(spec: Spec, numbers: dict[str, Any]) -> SoftmaxModule:
    return spec.module(heads=HEADS, mode="integer", **numbers).eval()


def kernel_of(module: SoftmaxModule) -> IntegerCall:
    kernel = module.choose_integers(torch.zeros(1))[0]
    assert kernel is not None
    return kernel


@cache
def scores_of(keys: int) -> Tensor:
    """Rows of every spread, and rows that break things: ties of codes, extremes, NaN and infinities."""
    generator = torch.Generator().manual_seed(keys)
    spreads = torch.tensor([0.1, 1.0, 4.0, 30.0, 1000.0, 1e30])
    plain = torch.randn(2, HEADS, len(spreads), keys, generator=generator) * spreads[:, None]
    codes = torch.randint(-260, 260, (2, HEADS, 4, keys), generator=generator) / 2
    ties = codes * torch.tensor([1 / 16, 1 / 4, 0.07, 0.11])[:, None]
    special = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 65504.0, 3e38, -3e38, 1e-40])
    odd = torch.randn(2, HEADS, len(special), keys, generator=generator)
    odd[..., 0] = odd[..., keys // 2] = special
    return torch.cat((plain, ties, odd, torch.full((2, HEADS, 1, keys), -math.inf)), dim=-2)


@cache
def mask_of(name: str, keys: int) -> Tensor | None:
    shape = scores_of(keys).shape
    rows = torch.rand(2, 1, shape[-2], 1, generator=torch.Generator().manual_seed(1)) < 0.6
    if name == "random":
        return rows & (torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.7)
    return rows if name == "rows" else None


def golden(module: SoftmaxModule, scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute what the integer mode computes without kernels."""
    attended = attended_keys(scores, mask)
    with torch.no_grad():
        return module.decoded_golden(torch.where(attended, scores, 0.0), attended)


def with_a_changed_entry(kernel: Any, method: str) -> Any:
    """Return a kernel with one entry of its table set to 0: that of a score at the maximum, or of the score 0."""
    name, place = {
        "exact": ("exponentials", 0),
        "consmax": ("probabilities", (0, 0, 128)),
        "softermax": ("powers", -4),
        "exaq": ("exponentials", -1),
        "sigmoid": ("probabilities", (0, 0, 128)),
        "index": ("entries", -1),
    }[method]
    table = torch.as_tensor(getattr(kernel, name)).clone()
    table[place] = 0
    changed = table if isinstance(getattr(kernel, name), Tensor) else tuple(table.tolist())
    return dataclasses.replace(kernel, **{name: changed})


def equal(one: Tensor, other: Tensor) -> bool:
    nan = one.isnan()
    return torch.equal(nan, other.isnan()) and torch.equal(one[~nan], other[~nan])


@st.composite
def specs(draw: st.DrawFn) -> tuple[Spec, dict[str, Any]]:
    """Specs of any formats that can be, the methods' own checks aside."""

    def fixed(integers: tuple[int, int], most: int) -> Any:
        return UQ(draw(st.integers(*integers)), draw(st.integers(1, most)))

    segments = st.sampled_from([1, 2, 4, 8, 16])
    rows: dict[str, Any] = {"reciprocal": fixed((1, 1), 18), "output": fixed((0, 2), 18)}
    rows["reciprocal_segments"] = draw(segments)
    try:
        if draw(st.booleans()):
            rows |= {
                "unnormalised": fixed((1, 4), 20),
                "power_sum": fixed((1, 12), 12),
                "power_segments": draw(segments),
            }
            rows["input"] = Q(draw(st.integers(1, 8)), draw(st.integers(0, 6)))
            choices = Softermax.choices()
            rows |= {name: draw(st.sampled_from(choices[name])) for name in choices}
            return Softermax(slice_width=draw(st.integers(1, 40)), log2e=draw(st.booleans()), **rows), {}
        rows |= {"exponential": fixed((1, 4), 18), "scores": Q(draw(st.integers(1, 8)), draw(st.integers(0, 8)))}
        clip, scale = draw(st.floats(-40, -0.01)), draw(st.floats(0.001, 2))
        return Exaq(bits=draw(st.sampled_from([2, 3, 4])), **rows), {"clip": clip, "scale": scale}
    except ValueError:
        assume(False)
        raise
