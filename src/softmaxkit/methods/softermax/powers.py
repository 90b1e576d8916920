"""Representation of a power of two inside a unit: the power itself, or the table entry and distance that define it."""

from __future__ import annotations

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Shape, Value
from amaranth.lib import data

from softmaxkit.blocks.piecewise_linear import line, lookup, round_line, shape_of
from softmaxkit.blocks.pipeline import named, resized
from softmaxkit.blocks.shifter import saturate
from softmaxkit.blocks.shifter import shift_right as shifted_right
from softmaxkit.blocks.stream import Slices, slices
from softmaxkit.methods.softermax.products import Products, products_of
from softmaxkit.methods.softermax.spec import Softermax
from softmaxkit.rounding import shift_right


def slices_of(spec: Softermax, lanes: int) -> Slices:
    """Return how slices align with beats; with the global maximum, each beat counts as one slice."""
    return slices(spec.slice_width, lanes) if spec.maximum == "online" else Slices(1, 1)


def whole_shape(spec: Softermax) -> Shape:
    """Return the shape of an integer maximum."""
    shift = spec.input.fraction_bits
    low, high = spec.input.min_code >> shift, spec.input.max_code >> shift
    return shape_of([low, high, -1])


def summed_bits(spec: Softermax) -> int:
    """Return the width of a power as it is summed: that of the power, or of a table entry and its distance."""
    if products_of(spec) is None:
        return spec.unnormalised.bits
    return spec.input.fraction_bits + (spec.unnormalised.bits + 1).bit_length()


def codes_wait(spec: Softermax, lanes: int) -> bool:
    """Return whether a score waits for the end of its row as its code and the kind of its distance.

    Otherwise it waits as its power, or as entry and distance together with the maximum of its slice, which takes fewer
    bits if many lanes share that maximum.
    """
    products = products_of(spec)
    slices = slices_of(spec, lanes)
    if products is None or spec.maximum == "global" or slices.beats == 1:
        return False
    shared: int = slices.a_beat * whole_shape(spec).width
    return lanes * _code_bits(spec, products) < lanes * _entry_bits(spec, products) + shared


def kind_bits(products: Products) -> int:
    """Return the width of the kind of a distance; the highest kind marks a masked score."""
    return (1 + max(max(kinds) for kinds in products.kinds())).bit_length()


def waiting_bits(spec: Softermax, lanes: int) -> int:
    """Return the width of a score's entry in the row buffer."""
    products = products_of(spec)
    if products is None:
        return spec.unnormalised.bits
    return (_code_bits if codes_wait(spec, lanes) else _entry_bits)(spec, products)


def _code_bits(spec: Softermax, products: Products) -> int:
    """Return the width of a code and the kind of its distance."""
    return spec.input.bits + kind_bits(products)


def _entry_bits(spec: Softermax, products: Products) -> int:
    """Return the width of an entry and a distance."""
    # The farthest distance also suffices for a fully masked row, whose exponent is 0.
    farthest = max(products.distances, products.limit + spec.power_sum.fraction_bits)
    return spec.input.fraction_bits + farthest.bit_length()


def waiting_layout(spec: Softermax, lanes: int) -> data.StructLayout:
    """Return the layout of a beat in the row buffer."""
    return power_layout(spec, lanes, waiting_bits(spec, lanes), 0 if codes_wait(spec, lanes) else None)


def power_layout(spec: Softermax, lanes: int, bits: int, maxima: int | None = None) -> data.StructLayout:
    """Return the layout of a beat after the maxima of its slices are known.

    Args:
        spec: the spec.
        lanes: positions per beat.
        bits: width of each lane of `powers`.
        maxima: number of integer maxima in the beat; None for one per slice, or none with the global maximum.

    Returns:
        The fields `powers`, one per lane; `last`; and `maxima`, to which the powers of each slice are relative.
    """
    if maxima is None:
        maxima = slices_of(spec, lanes).a_beat if spec.maximum == "online" else 0
    powers, wholes = data.ArrayLayout(bits, lanes), data.ArrayLayout(whole_shape(spec), maxima)
    return data.StructLayout({"powers": powers, "last": 1, "maxima": wholes})


def power_of(m: Module, name: str, spec: Softermax, code: Value, masked: Value, whole: Value) -> Value:
    """Return `2**(score - whole)` as it is summed; masked powers are 0, or get a distance too large to count."""
    above = max(spec.input.fraction_bits - len(code), 0)  # fraction bits above a narrow code, filled with its sign
    fraction = Cat(code, code[-1].replicate(above))[: spec.input.fraction_bits]
    # No attended score exceeds the maximum by 1 or more.
    distance = named(m, f"{name}_distance", (whole - (code >> spec.input.fraction_bits))[: len(whole)]).as_unsigned()
    if products_of(spec) is None:
        value = line(m, f"{name}_line", spec.power_table, fraction, spec.rounding)
        value = round_line(m, f"{name}_fraction", spec.power_table, value, spec.rounding)
        shifted = shifted_right(m, f"{name}_shifted", value, distance, spec.rounding)
        saturated = saturate(m, f"{name}_saturated", shifted, spec.unnormalised.bits)
        return named(m, name, Mux(masked, 0, saturated))
    near = saturate(m, f"{name}_near", distance, summed_bits(spec) - len(fraction))
    return named(m, name, Cat(fraction, near | masked.replicate(len(near))))


def summand(m: Module, name: str, spec: Softermax, power: Value) -> Value:
    """Return a power in its format; an entry and a distance are converted by a table."""
    if products_of(spec) is None:
        return power
    fraction = spec.input.fraction_bits
    entries = np.asarray(spec.power_table.results(spec.rounding), np.int64)
    distances = np.arange(1 << len(power) - fraction)[:, None]
    return lookup(m, name, shift_right(entries, distances, spec.rounding).reshape(-1).tolist(), power)


def waiting(m: Module, name: str, spec: Softermax, power: Value) -> Value:
    """Return a power as it waits in the row buffer; all distances at which every result is 0 become the same."""
    products = products_of(spec)
    if products is None:
        return power
    fraction, distance = power[: spec.input.fraction_bits], power[spec.input.fraction_bits :]
    bits = _entry_bits(spec, products) - len(fraction)
    far = distance >= products.distances
    # Also the fraction, which may be undefined if the score is masked.
    return named(m, name, Cat(fraction, resized(distance, bits)) | far.replicate(len(fraction) + bits))


def kind_of(m: Module, name: str, spec: Softermax, power: Value) -> Value:
    """Look up the kind of a distance by entry and distance; one too far for any result but 0 counts as masked."""
    products = products_of(spec)
    assert products is not None
    masked = (1 << kind_bits(products)) - 1
    distances = 1 << len(power) - spec.input.fraction_bits
    # The threshold is a power of two, so that few bits decide; the largest distance marks masked scores.
    near = min(1 << (products.distances - 1).bit_length(), distances - 1)
    kinds = [
        kinds[distance] if distance < products.distances else kinds[-1] if distance < near else masked
        for distance in range(distances)
        for kinds in products.kinds()
    ]
    return lookup(m, name, kinds, power)
