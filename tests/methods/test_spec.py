"""Specs: JSON round trip, validation, and input checks of the reference."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from cases import BY_METHOD, CASES, DEFAULTS
from method_cases import Case

import softmaxkit
from softmaxkit import Spec
from softmaxkit.masks import exact_softmax
from softmaxkit.methods import METHODS, method_class

FIRST, SECOND = (case.spec for case in DEFAULTS[:2])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_json_round_trip(case: Case) -> None:
    spec, constants = case.spec, case.constants
    assert Spec.from_json(json.dumps(spec.to_json())) == spec
    assert type(spec).from_json(spec.to_json()) == spec
    assert type(constants).from_json(json.loads(json.dumps(constants.to_json()))) == constants


@pytest.mark.parametrize("case", CASES, ids=str)
def test_omitted_keys_get_their_defaults(case: Case) -> None:
    fields, defaults = case.spec.to_json(), type(case.spec)().to_json()
    changed = {key: value for key, value in fields.items() if value != defaults[key]}
    assert Spec.from_json({"schema": 1, "method": case.spec.method, **changed}) == case.spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"schema": 1, "method": "exact", "method": "exaq"}', "name each key once, but 'method' occurs 2 times"),
        ("[]", "JSON object"),
        (json.dumps({"schema": 2, "method": FIRST.method}), '"schema": 1, got 2'),
        (json.dumps({"schema": True, "method": FIRST.method}), '"schema": 1, got True'),
        (json.dumps({"schema": 1.0, "method": FIRST.method}), '"schema": 1, got 1.0'),
        (json.dumps({"method": FIRST.method}), "got None"),
        ('{"schema": 1}', 'add "method"'),
        ('{"schema": 1, "method": "other"}', "no method is called 'other'"),
        (json.dumps({"schema": 1, "method": f"{FIRST.method}t"}), f"did you mean {FIRST.method!r}"),
        *(
            (json.dumps({"schema": 1, "method": method, **fields}), message)
            for method, cases in BY_METHOD.items()
            for fields, message in cases.refused_fields
        ),
    ],
)
def test_invalid_json_is_refused_with_a_remedy(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        Spec.from_json(text)
    assert "\n" not in str(raised.value)


def test_a_spec_of_another_method_is_refused() -> None:
    with pytest.raises(ValueError, match=r"read it with Spec\.from_json"):
        type(SECOND).from_json(FIRST.to_json())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(*refused, id=f"{method} {number}")
        for method, cases in BY_METHOD.items()
        for number, refused in enumerate(cases.refused)
    ],
)
def test_invalid_specs_and_constants_are_refused_at_once(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_specs_are_frozen_and_name_their_differences(case: Case) -> None:
    spec = case.spec
    field = dataclasses.fields(spec)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(spec, field, getattr(spec, field))
    assert spec.name == f"{spec.method} {spec.variant}".strip()
    others = [other.spec for other in BY_METHOD[spec.method].specs if other.spec != spec]
    assert all(spec.variant != other.variant for other in others)


def test_the_registry_is_complete() -> None:
    for name in METHODS:
        spec_class = method_class(name)
        assert spec_class.method == name
        assert method_class(name.upper()) is spec_class
        assert all(isinstance(spec, spec_class) for spec in spec_class.variants())
    with pytest.raises(ValueError, match=re.escape(f"the methods are {', '.join(METHODS)}")):
        method_class("other")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference_refuses_nan_unless_masked(case: Case) -> None:
    spec, parameters = case.spec, case.parameters
    scores, mask = np.array([0.0, np.nan, 1.0]), np.array([True, False, True])
    assert np.isfinite(spec.reference(scores, mask, **parameters)).all()
    with pytest.raises(ValueError, match="NaN"):
        spec.reference(scores, **parameters)
    with pytest.raises(ValueError, match="does not broadcast"):
        spec.reference(scores, np.ones(4, bool), **parameters)


def test_exact_softmax() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 9)) * 5
    power = np.exp(scores)
    assert np.allclose(exact_softmax(scores), power / power.sum(-1, keepdims=True), rtol=1e-13)
    assert (exact_softmax(np.full((2, 3), -np.inf)) == 0).all()


def test_importing_softmaxkit_loads_neither_torch_nor_transformers_nor_amaranth() -> None:
    code = (
        f"import sys, softmaxkit; softmaxkit.{type(SECOND).__name__}; "
        "print([name for name in ('torch', 'transformers', 'amaranth') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_constants_of_another_method_and_invalid_codes_are_refused(case: Case) -> None:
    spec, codes, constants = case.spec, np.zeros(4, np.int64), case.constants
    for other in DEFAULTS:
        if other.spec.constants_class is not spec.constants_class:
            message = f"{type(spec).__name__} requires {type(constants).__name__}, got {type(other.constants).__name__}"
            with pytest.raises(TypeError, match=message):
                spec.golden(codes, None, other.constants)
    with pytest.raises(TypeError, match="golden requires integer codes, got float64"):
        spec.golden(codes.astype(float), None, constants)
    with pytest.raises(ValueError, match="got a single number"):
        spec.golden(codes[0], None, constants)


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_unknown_parameters_are_refused(case: Case) -> None:
    wrong: dict[str, Any] = {**case.parameters, "other": 1.0}
    with pytest.raises(TypeError, match="no parameter 'other'"):
        case.spec.constants(**wrong)
    with pytest.raises(TypeError, match="no parameter 'other'"):
        case.spec.module(**wrong)
    with pytest.raises(TypeError, match="no parameter 'other'"):
        case.spec.reference(np.zeros(3), **wrong)
    if case.spec.dataflow != "row":
        with pytest.raises(TypeError, match="no parameter 'other'"):
            case.spec.partial(**wrong)
    for name, number in case.parameters.items():
        with pytest.raises(TypeError, match=f"no parameter '{name[:-1]}'; did you mean '{name}'"):
            softmaxkit.softmax(np.zeros(3), case.spec, **{**case.parameters, name[:-1]: number})


@pytest.mark.parametrize("case", [case for case in DEFAULTS if case.parameters], ids=str)
@pytest.mark.parametrize("wrong", ["1", 1j, np.array(1j), [1.0, "2"], {}], ids=repr)
def test_parameters_are_real_numbers(case: Case, wrong: Any) -> None:
    for name in case.parameters:
        parameters = {**case.parameters, name: wrong}
        for call in (case.spec.constants, case.spec.module, partial(softmaxkit.softmax, np.zeros(3), case.spec)):
            with pytest.raises(TypeError, match=f"{name} must be a real number, or one for each head, got"):
                call(**parameters)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scores_out_of_range_saturate(case: Case) -> None:
    codes = case.spec.encode(np.array([[-1e30, 1e30]]), case.constants)
    assert (np.asarray(codes) == case.spec.score_range()).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reaching_further_widens_the_score_range(case: Case) -> None:
    for other in case.spec.reaching_further():
        fitted = {"scale": 1.0} if "scale" in case.numbers or getattr(other, "scale", "") == "calibrated" else {}
        limits = [
            spec.score_limits(spec.constants(**case.numbers, **more))
            for spec, more in ((case.spec, {}), (other, fitted))
        ]
        assert np.max(limits[1]) > np.max(limits[0])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_constants_of_another_form_are_refused(case: Case) -> None:
    spec, codes = case.spec, np.zeros(4, np.int64)
    others = [other for other in BY_METHOD[spec.method].specs if other.spec.constants_form != spec.constants_form]
    for other in others:
        with pytest.raises(ValueError, match=f"built by a different {type(spec).__name__}.*spec.constants"):
            spec.golden(codes, None, other.constants)
    same = dataclasses.replace(case.constants, form=0)  # as in a checkpoint written before forms existed
    assert (spec.golden(codes, None, same) == spec.golden(codes, None, case.constants)).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_codes_out_of_range_are_refused_unless_masked(case: Case) -> None:
    spec, constants = case.spec, case.constants
    low, high = spec.code_range()
    assert high - low + 1 == 1 << spec.score_bits
    mask = np.array([True, False, True])
    for wrong in (low - 1, high + 1, 1 << 40):
        codes = np.array([low, wrong, high])
        with pytest.raises(ValueError, match=f"from {low} to {high}, got {wrong}"):
            spec.golden(codes, None, constants)
        right = spec.golden(np.array([low, low, high]), mask, constants)
        assert (spec.golden(codes, mask, constants) == right).all()


@pytest.mark.parametrize("case", [case for case in CASES if case.spec.divides_last], ids=str)
def test_deferred_rows_check_their_input_as_golden_does(case: Case) -> None:
    spec, constants, codes = case.spec, case.constants, np.zeros((2, 3), np.int64)
    spec.deferred(codes, None, constants)
    other = next(default for default in DEFAULTS if default.spec.constants_class is not spec.constants_class)
    with pytest.raises(TypeError, match=f"{type(spec).__name__} requires"):
        spec.deferred(codes, None, other.constants)
    wrong = np.where(np.arange(3) == 1, spec.code_range()[1] + 1, codes)
    with pytest.raises(ValueError, match="score codes of"):
        spec.deferred(wrong, None, constants)
    mask = np.arange(3) != 1
    assert (spec.deferred(wrong, mask, constants).weights == spec.deferred(codes, mask, constants).weights).all()
    with pytest.raises(ValueError, match=r"at least one key, got codes of shape \(2, 0\)"):
        spec.deferred(codes[:, :0], None, constants)


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_missing_required_parameters_are_refused(case: Case) -> None:
    spec, required = case.spec, {name: case.numbers[name] for name in case.spec.required}
    softmaxkit.softmax(np.zeros(3), spec, **required)
    for name in spec.required:
        for mode in ("float", "integer"):
            with pytest.raises(ValueError, match=rf"requires {name}.* softmaxkit\.calibrate"):
                softmaxkit.softmax(np.zeros(3), spec, mode=mode, **{**required, name: None})
