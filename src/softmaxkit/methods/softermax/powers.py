"""What stands for a power of two on its way through a unit: the power, or what it is made from."""

from __future__ import annotations

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Shape, Value
from amaranth.lib import data

from softmaxkit.blocks.piecewise_linear import line, lookup, round_line, shape_of
from softmaxkit.blocks.pipeline import named, resized
from softmaxkit.blocks.shifter import saturate
from softmaxkit.blocks.shifter import shift_right as shifted_right
from softmaxkit.blocks.stream import Slices, slices
from softmaxkit.formats import shift_right
from softmaxkit.methods.softermax.products import Products, products_of
from softmaxkit.methods.softermax.spec import Softermax


def slices_of(spec: Softermax, lanes: int) -> Slices:
    """Return how slices lie in beats; with the global maximum, every beat counts as one."""
    return slices(spec.slice_width, lanes) if spec.maximum == "online" else Slices(1, 1)


def whole_shape(spec: Softermax) -> Shape:
    """Return the shape of an integer maximum."""
    shift = spec.input.fraction_bits
    low, high = spec.input.min_code >> shift, spec.input.max_code >> shift
    return shape_of([low, high, -1])


def summed_bits(spec: Softermax) -> int:
    """Return the bits of what a power is summed from: itself, or a table entry and the distance that shifts it."""
    if products_of(spec) is None:
        return spec.unnormalised.bits
    return spec.input.fraction_bits + (spec.unnormalised.bits + 1).bit_length()


def codes_wait(spec: Softermax, lanes: int) -> bool:
    """Return whether a score waits for the end of its row as its code and the kind of its distance.

    Else its power does, or an entry and a distance with the maximum of its slice, which takes fewer bits where several
    lanes share it.
    """
    products = products_of(spec)
    slices = slices_of(spec, lanes)
    if products is None or spec.maximum == "global" or slices.beats == 1:
        return False
    shared: int = slices.a_beat * whole_shape(spec).width
    return lanes * _code_bits(spec, products) < lanes * _entry_bits(spec, products) + shared


def kind_bits(products: Products) -> int:
    """Return the bits of the kind of a distance, the highest of which is that of a masked score."""
    return (1 + max(max(kinds) for kinds in products.kinds())).bit_length()


def waiting_bits(spec: Softermax, lanes: int) -> int:
    """Return the bits of what of a score waits for the end of its row."""
    products = products_of(spec)
    if products is None:
        return spec.unnormalised.bits
    return (_code_bits if codes_wait(spec, lanes) else _entry_bits)(spec, products)


def _code_bits(spec: Softermax, products: Products) -> int:
    """Return the bits of a code and the kind of its distance."""
    return spec.input.bits + kind_bits(products)


def _entry_bits(spec: Softermax, products: Products) -> int:
    """Return the bits of an entry and a distance."""
    # Farthest of all is far enough for a row with nothing in it, too, whose exponent is 0.
    farthest = max(products.distances, products.limit + spec.power_sum.fraction_bits)
    return spec.input.fraction_bits + farthest.bit_length()


def waiting_layout(spec: Softermax, lanes: int) -> data.StructLayout:
    """Return what there is of a beat in the row buffer."""
    return power_layout(spec, lanes, waiting_bits(spec, lanes), 0 if codes_wait(spec, lanes) else None)


def power_layout(spec: Softermax, lanes: int, bits: int, maxima: int | None = None) -> data.StructLayout:
    """Return what there is of a beat behind the maxima of its slices.

    `powers` of each lane, of so many bits; `last`; and `maxima`, the integer maximum that the powers of each slice
    refer to, of which there is none where a whole row has the one maximum. `maxima` says how many there are else.
    """
    if maxima is None:
        maxima = slices_of(spec, lanes).a_beat if spec.maximum == "online" else 0
    powers, wholes = data.ArrayLayout(bits, lanes), data.ArrayLayout(whole_shape(spec), maxima)
    return data.StructLayout({"powers": powers, "last": 1, "maxima": wholes})


def power_of(m: Module, name: str, spec: Softermax, code: Value, masked: Value, whole: Value) -> Value:
    """Return what the power `2**(score - whole)` is summed from; masked ones are 0, or too far away to count."""
    above = max(spec.input.fraction_bits - len(code), 0)  # bits of the fraction that a narrow code leaves to its sign
    fraction = Cat(code, code[-1].replicate(above))[: spec.input.fraction_bits]
    # No score that counts is above the maximum by 1 or more.
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
    """Return the power in its format; from an entry and a distance, by a table of all of them."""
    if products_of(spec) is None:
        return power
    fraction = spec.input.fraction_bits
    entries = np.asarray(spec.power_table.results(spec.rounding), np.int64)
    distances = np.arange(1 << len(power) - fraction)[:, None]
    return lookup(m, name, shift_right(entries, distances, spec.rounding).reshape(-1).tolist(), power)


def waiting(m: Module, name: str, spec: Softermax, power: Value) -> Value:
    """Return what of a power waits: where it is the distance, those that make every result 0 are all the same."""
    products = products_of(spec)
    if products is None:
        return power
    fraction, distance = power[: spec.input.fraction_bits], power[spec.input.fraction_bits :]
    bits = _entry_bits(spec, products) - len(fraction)
    far = distance >= products.distances
    # The fraction too, which may be unknown where a score is masked.
    return named(m, name, Cat(fraction, resized(distance, bits)) | far.replicate(len(fraction) + bits))


def kind_of(m: Module, name: str, spec: Softermax, power: Value) -> Value:
    """Return the kind of a distance, by entry and distance; one that is too far for any result counts as masked."""
    products = products_of(spec)
    assert products is not None
    masked = (1 << kind_bits(products)) - 1
    distances = 1 << len(power) - spec.input.fraction_bits
    # What is far is told by few bits; the farthest of all is that of masked scores.
    near = min(1 << (products.distances - 1).bit_length(), distances - 1)
    kinds = [
        kinds[distance] if distance < products.distances else kinds[-1] if distance < near else masked
        for distance in range(distances)
        for kinds in products.kinds()
    ]
    return lookup(m, name, kinds, power)
