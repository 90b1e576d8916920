"""Specs: JSON there and back, validation, and what reference refuses."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from specs import CASES, IDS

from softmaxkit import UQ, ConSmax, Exact, Exaq, Float, Q, Softermax, Spec
from softmaxkit.masks import exact_softmax
from softmaxkit.methods import METHODS, method_class


@pytest.mark.parametrize(("spec", "numbers"), CASES, ids=IDS)
def test_json_round_trip(spec: Spec, numbers: dict[str, Any]) -> None:
    assert Spec.from_json(json.dumps(spec.to_json())) == spec
    assert type(spec).from_json(spec.to_json()) == spec
    constants = spec.constants(**numbers)
    assert type(constants).from_json(json.loads(json.dumps(constants.to_json()))) == constants


def test_left_out_keys_have_their_defaults() -> None:
    assert Spec.from_json('{"schema": 1, "method": "exaq", "bits": 4}') == Exaq(bits=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "JSON object"),
        ('{"schema": 2, "method": "exact"}', '"schema": 1, not 2'),
        ('{"method": "exact"}', "not None"),
        ('{"schema": 1, "method": "exakt"}', "no method is called 'exakt'"),
        ('{"schema": 1, "method": "exaq", "bit": 3}', "no key 'bit'; did you mean 'bits'"),
        ('{"schema": 1, "method": "exaq", "bits": 5}', "Exaq.bits is 2 or 3 or 4, not 5"),
        ('{"schema": 1, "method": "exaq", "scores": "Q(0,0)"}', "0 bits wide"),
        ('{"schema": 1, "method": "exaq", "scores": 8}', "Exaq.scores is of type Fixed as the format itself"),
        (
            '{"schema": 1, "method": "consmax", "table_format": 9}',
            "is of type Float or Fixed as the format itself",
        ),
        ('{"schema": 1, "method": "consmax", "table_format": "UQ(0,13)"}', "n from 4 to 12, not UQ"),
        ('{"schema": 1, "method": "softermax", "slice_width": 1.5}', "slice_width is of type int, not 1.5"),
        ('{"schema": 1, "method": "softermax", "slice_width": true}', "slice_width is of type int, not True"),
        ('{"schema": 1, "method": "softermax", "maximum": "local"}', "'online' or 'global'"),
    ],
)
def test_bad_json_is_refused_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        Spec.from_json(text)
    assert "\n" not in str(raised.value)


def test_a_spec_of_another_method_is_refused() -> None:
    with pytest.raises(ValueError, match=r"read it with Spec\.from_json"):
        Exaq.from_json(Exact().to_json())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Exact(format=Float(8, 7)), "4 or 5 exponent bits"),
        (lambda: Exact(format=Float(3, 7)), "4 or 5 exponent bits"),
        (lambda: Exact(format="FP16"), "of type Float"),
        (lambda: Exaq(bits=2.0), "2 or 3 or 4, not 2.0"),
        (lambda: ConSmax(table_format=Float(3, 7)), "4 or more exponent"),
        (lambda: ConSmax(beta0=1000.0), "between -64 and 64"),
        (lambda: ConSmax().constants(largest=float("nan")), "finite and not negative"),
        (lambda: ConSmax().constants(scale=1e300), "of a size to be of use"),
        (lambda: Softermax(power_sum=UQ(0, 8)), "holds 1.0"),
        (lambda: Softermax(reciprocal=UQ(1, 30)), "more than 64-bit integers"),
        (lambda: Softermax(log2e="no"), "of type bool"),
        (lambda: Exact(schedule="two-pass"), "'three-pass' or 'online'"),
        (lambda: Exact(exponential_segments=3), "power of two"),
        (lambda: Exact(slice_width=0), "1 or more"),
        (lambda: ConSmax(bits=4), "8 or 16"),
        (lambda: ConSmax(product_bits=1), "2 to 24"),
        (lambda: ConSmax(table_format=Float(8, 23)), "mantissa"),
        (lambda: ConSmax(ceiling=0.0), "positive"),
        (lambda: ConSmax(table_format="BF16"), "of type Float or Fixed as the format itself"),
        (lambda: ConSmax(table_format=Q(0, 9)), r"UQ\(0, n\) with n from 4 to 12, not Q\(0,9\)"),
        (lambda: ConSmax(table_format=UQ(1, 8)), r"n from 4 to 12, not UQ\(1,8\)"),
        (lambda: ConSmax(table_format=UQ(0, 3)), "n from 4 to 12"),
        (lambda: ConSmax(table_format=UQ(0, 13)), "n from 4 to 12"),
        (lambda: ConSmax(table_format=UQ(0, 9), product_bits=9), "exact: ConSmax.product_bits is 0 with them, not 9"),
        (
            lambda: ConSmax(bits=16, constant="multiplied", table_format=UQ(0, 11)),
            r"UQ\(0, 10\) or narrower here, not UQ\(0,11\).* it has 5 factors and output_bits=8",
        ),
        (lambda: ConSmax(constant="multiplied", table_format=UQ(0, 12), output_bits=24), r"UQ\(0, 11\) or narrower"),
        (lambda: ConSmax(tables="shifted"), "'split' or 'shift' or 'whole'"),
        (
            lambda: ConSmax(tables="shift", bits=16),
            "takes the defaults bits=8, .*, not bits=16; leave it out",
        ),
        (lambda: ConSmax(tables="shift", constant="multiplied"), "not constant=multiplied"),
        (lambda: ConSmax(tables="shift", product_bits=9), "not product_bits=9"),
        (lambda: ConSmax(tables="shift").constants(scale=1 / 16), r"scale ln2/16 = 0.0433217 alone, not 0.0625; leave"),
        (
            lambda: ConSmax(tables="whole", bits=16, constant="multiplied"),
            "not bits=16, constant=multiplied; leave them",
        ),
        (lambda: ConSmax(tables="whole", product_bits=9), "not product_bits=9"),
        (
            lambda: ConSmax(tables="whole", table_format=UQ(0, 9)),
            r"table_format is not used\); leave it out",
        ),
        (lambda: ConSmax(gamma0=-1.0), "gamma0"),
        (lambda: ConSmax(output_bits=0), "1 to 24"),
        (lambda: Softermax(input=UQ(6, 2)), "signed"),
        (lambda: Softermax(power_segments=8), "at most 4 segments"),
        (lambda: Softermax(output=Q(1, 7)), "unsigned"),
        (lambda: Softermax(unnormalised=UQ(0, 8)), "holds 1.0"),
        (lambda: Softermax(reciprocal=UQ(2, 7)), "mantissa"),
        (lambda: Softermax(slice_width=0), "1 or more"),
        (lambda: Exaq(bits=3, clip="laplace"), "2 and 4 bits"),
        (lambda: Exaq(exponential=UQ(0, 15)), "holds 1.0"),
        (lambda: Exaq(scores=UQ(6, 2)), "signed"),
    ],
)
def test_what_cannot_be_is_refused_at_once(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_specs_are_frozen_and_say_what_differs() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Exact().slice_width = 3  # type: ignore[misc]
    assert Softermax().variant == ""
    assert ConSmax(bits=16, constant="multiplied").variant == "bits=16, constant=multiplied"
    assert ConSmax(tables="shift", table_format=UQ(0, 9)).variant == "tables=shift, table_format=UQ(0,9)"
    assert Exaq(bits=3, clip="searched", scores=Q(5, 3)).variant == "3 bits, searched clip, scores=Q(5,3)"


def test_the_registry_is_complete() -> None:
    for name in METHODS:
        found = method_class(name)
        assert found.method == name
        assert all(isinstance(spec, found) for spec in found.variants())
    with pytest.raises(ValueError, match="the methods are exact, consmax, softermax, exaq"):
        method_class("softmax")


@pytest.mark.parametrize(("spec", "numbers"), CASES, ids=IDS)
def test_reference_refuses_nan_but_not_where_it_is_masked(spec: Spec, numbers: dict[str, Any]) -> None:
    real = {key: value for key, value in numbers.items() if key != "scale"}
    scores, mask = np.array([0.0, np.nan, 1.0]), np.array([True, False, True])
    assert np.isfinite(spec.reference(scores, mask, **real)).all()
    with pytest.raises(ValueError, match="NaN"):
        spec.reference(scores, **real)
    with pytest.raises(ValueError, match="does not broadcast"):
        spec.reference(scores, np.ones(4, bool), **real)


def test_reference_of_exact_and_softermax_is_softmax() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 9)) * 5
    power = np.exp(scores)
    assert np.allclose(Exact().reference(scores), power / power.sum(-1, keepdims=True), rtol=1e-13)
    assert np.allclose(Softermax().reference(scores), 2**scores / (2**scores).sum(-1, keepdims=True), rtol=1e-13)
    assert np.allclose(Softermax(log2e=True).reference(scores), exact_softmax(scores), rtol=1e-13)
    assert (exact_softmax(np.full((2, 3), -np.inf)) == 0).all()


def test_consmax_merges_its_constants() -> None:
    """C = exp(-beta)/gamma, which the paper's Eq. 3 misprints."""
    scores = np.linspace(-3, 0, 7)
    given = ConSmax().reference(scores, beta=1.2, gamma=7.0)
    assert np.allclose(given, np.exp(-1.2) / 7.0 * np.exp(scores), rtol=1e-13)


def test_exaq_levels_are_rounded_to_nearest_ties_to_even() -> None:
    spec = Exaq(bits=2)
    distance = np.array([0.0, -0.5, -1.0, -1.5, -2.0, -2.5, -3.0, -7.0])  # clip -3: levels at -3, -2, -1, 0
    given = spec.reference(distance, clip=-3.0)
    levels = np.round(np.log(given / given[0]) + 3)
    assert levels.tolist() == np.round(np.clip(distance, -3, 0) + 3).tolist()


def test_importing_softmaxkit_is_quick_and_loads_neither_torch_nor_amaranth() -> None:
    code = (
        "import time, sys; start = time.perf_counter(); import softmaxkit; took = time.perf_counter() - start; "
        "softmaxkit.Softermax; print(took, 'torch' in sys.modules, 'amaranth' in sys.modules)"
    )
    took, *loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert loaded == ["False", "False"]
    assert float(took) < 0.3


def test_constants_of_another_kind_and_codes_that_are_none_are_refused() -> None:
    codes = np.zeros(4, np.int64)
    with pytest.raises(TypeError, match="Softermax takes Constants, not ExaqConstants"):
        Softermax().golden(codes, None, Exaq().constants(clip=-3.0))
    with pytest.raises(TypeError, match="golden takes integer codes, not float64"):
        Softermax().golden(codes.astype(float), None, Softermax().constants())
    with pytest.raises(ValueError, match="not a single number"):
        Softermax().golden(codes[0], None, Softermax().constants())
