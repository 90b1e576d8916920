"""Error bounds of random specs: golden never exceeds them, whatever the formats and sizes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from softmaxkit import ConSmax, Exact, Exaq, Float, Q, Softermax, Spec
from softmaxkit.formats import UQ, Fixed

Drawn = tuple[Spec, dict[str, Any]]
"""A spec, and the parameters of its constants."""


def unsigned(rng: random.Random, least: int = 1) -> Fixed:
    return UQ(rng.randint(least, 3), rng.randint(1, 20))


def mantissa(rng: random.Random) -> Fixed:
    return UQ(1, rng.randint(1, 20))


def exact(rng: random.Random) -> Drawn:
    form = Float(rng.choice([4, 5]), rng.randint(1, 12))
    segments = 1 << rng.randint(0, min(form.mantissa_bits + 4, 8))
    schedule: Any = rng.choice(["three-pass", "online"])
    slices = rng.choice([1, 2, 5, 16])
    return Exact(form, schedule, slices, segments, 1 << rng.randint(0, 4), rng.randint(0, 5)), {}


def softermax(rng: random.Random) -> Drawn:
    fraction = rng.randint(0, 6)
    spec = Softermax(
        input=Q(rng.randint(2, 9), fraction),
        unnormalised=UQ(rng.randint(1, 3), rng.randint(1, 20)),
        power_sum=UQ(rng.randint(1, 14), rng.randint(1, 16)),
        reciprocal=mantissa(rng),
        output=unsigned(rng, 0),
        slice_width=rng.choice([1, 2, 5, 16]),
        maximum=rng.choice(["online", "global"]),
        integer_maximum=rng.choice(["ceil", "floor"]),
        power_segments=1 << rng.randint(0, fraction),
        reciprocal_segments=1 << rng.randint(0, 4),
        rounding=rng.choice(["nearest", "floor"]),
        log2e=rng.choice([False, True]),
    )
    return spec, {}


def consmax(rng: random.Random) -> Drawn:
    tables: Any = rng.choice(["split", "split", "shift"])
    split = tables == "split"
    entry = rng.choice([Float(rng.randint(4, 8), rng.randint(1, 10)), UQ(0, rng.randint(4, 7))])
    spec = ConSmax(
        bits=rng.choice([8, 16]) if split else 8,
        tables=tables,
        table_format=entry,
        product_bits=rng.choice([0, 2, 3, 8]) if split and isinstance(entry, Float) else 0,
        constant=rng.choice(["folded", "multiplied"]) if split else "folded",
        output_bits=rng.randint(1, 24),
        ceiling=2 ** rng.uniform(-10, 10),
    )
    numbers = {"beta": rng.gauss(0, 5), "gamma": 2 ** rng.gauss(0, 5), "largest": spec.ceiling * rng.random()}
    return spec, numbers | ({"scale": spec.default_scale * 2 ** rng.gauss(0, 1)} if split else {})


def exaq(rng: random.Random) -> Drawn:
    spec = Exaq(
        bits=rng.choice([2, 3, 4]),
        scores=Q(rng.randint(2, 8), rng.randint(0, 8)),
        exponential=unsigned(rng),
        reciprocal=mantissa(rng),
        reciprocal_segments=1 << rng.randint(0, 4),
        output=unsigned(rng, 0),
    )
    return spec, {"clip": -(2 ** rng.gauss(1.5, 2)), "scale": 2 ** rng.gauss(-3, 2)}


DRAWN = {"exact": (exact, 4), "softermax": (softermax, 40), "consmax": (consmax, 100), "exaq": (exaq, 40)}
"""By method, and how many specs take a fraction of a second."""


def codes_of(rng: np.random.Generator, spec: Spec, constants: Any, numbers: dict[str, Any], keys: int) -> Any:
    """Return rows with all sorts of spreads; one is a rising ramp, and some have only a few values."""
    spread = 2.0 ** rng.uniform(-4, 6, (20, 1))
    scores = rng.normal(size=(20, keys)) * spread + numbers.get("beta", 0.0)
    scores[0].sort()
    scores[1:6] = scores[1:6, :1] - rng.integers(0, 3, (5, keys)) * spread[1:6]
    return spec.encode(scores, constants)


def check(draw: Callable[[random.Random], Drawn], specs: int, seed: int) -> None:
    choices, rng = random.Random(seed), np.random.default_rng(seed)
    accepted = 0
    while accepted < specs:
        try:
            spec, numbers = draw(choices)
        except ValueError:
            continue  # these fields do not go together
        accepted += 1
        constants = spec.constants(**numbers)
        parameters = {name: value for name, value in numbers.items() if name in spec.required}
        for keys in (1, 40, 300):
            codes = codes_of(rng, spec, constants, numbers, keys)
            mask = rng.random(codes.shape) < choices.choice([0.3, 1.0])
            truth = spec.reference(spec.score_values(codes, constants), mask, **parameters)
            off = np.abs(spec.decode(spec.golden(codes, mask, constants), constants) - truth)
            bound = spec.error_bound(codes, mask, constants, **parameters)
            # The reference itself and the bound are computed in float64.
            assert (off <= bound * (1 + 1e-9)).all(), (spec, numbers, keys)


@pytest.mark.parametrize(("draw", "specs"), DRAWN.values(), ids=DRAWN)
def test_golden_is_within_the_bound_of_any_spec(draw: Callable[[random.Random], Drawn], specs: int) -> None:
    check(draw, specs, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "specs"), DRAWN.values(), ids=DRAWN)
def test_golden_is_within_the_bound_of_many_specs(draw: Callable[[random.Random], Drawn], specs: int) -> None:
    for seed in range(1, 11):
        check(draw, specs, seed)


@pytest.mark.parametrize("exponent_bits", [4, 5])
def test_float_tables_end_below_the_top_of_their_format(exponent_bits: int) -> None:
    """With a common power of two, which leaves as much of the range as possible to the small entries."""
    form = Float(exponent_bits, 7)
    for scale, beta in ((1 / 4, 0.0), (1 / 4, 60.0), (1.0, 200.0)):
        constants = ConSmax(table_format=form).constants(beta=beta, gamma=1.0, scale=scale)
        entries = form.decode(np.asarray(constants.high))
        assert 2.0 ** (form.max_exponent - 1) <= entries.max() < 2.0**form.max_exponent
