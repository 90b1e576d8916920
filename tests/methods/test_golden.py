"""Golden models: equal on NumPy and torch, within the derived bound of the reference, independent of layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import BY_METHOD, CASES, DEFAULTS
from method_cases import Case
from numpy.typing import NDArray

LENGTHS = (1, 2, 15, 16, 17, 64, 300)

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def rows(spread: float, keys: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return 200 rows of scores and masks; some rows are fully masked, have only ties, or one attended key."""
    rng = np.random.default_rng([seed, keys, int(spread * 100)])
    scores = rng.normal(size=(200, keys)) * spread
    mask = rng.random((200, keys)) < rng.choice([0.2, 0.8, 1.0], size=(200, 1))
    scores[:10] = 1.25
    mask[:5] = False
    mask[10:15] = np.arange(keys) == keys // 2
    return scores, mask


@every_case
@pytest.mark.parametrize("spread", [0.3, 2.0, 10.0, 60.0])
def test_golden_is_within_its_bound_of_reference(case: Case, spread: float) -> None:
    spec, constants, parameters = case.spec, case.constants, case.parameters
    for keys in LENGTHS:
        scores, mask = rows(spread, keys)
        codes = spec.encode(scores, constants)
        result = spec.decode(spec.golden(codes, mask, constants), constants)
        truth = spec.reference(spec.score_values(codes, constants), mask, **parameters)
        bound = spec.error_bound(codes, mask, constants, **parameters)
        assert (np.abs(result - truth) <= bound * (1 + 1e-9)).all()
        assert (result[~mask] == 0).all()
        assert (bound[~mask] == 0).all()


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_the_bound_is_tight_enough_to_catch_a_broken_golden(case: Case) -> None:
    spec, constants, parameters = case.spec, case.constants, case.parameters
    scores, mask = rows(2.0, 64)
    codes = spec.encode(scores, constants)
    truth = spec.reference(spec.score_values(codes, constants), mask, **parameters)
    scores[:, 7] += 0.5
    wrong = spec.decode(spec.golden(spec.encode(scores, constants), mask, constants), constants)
    assert (np.abs(wrong - truth) > spec.error_bound(codes, mask, constants, **parameters)).any()


@every_case
def test_numpy_and_torch_give_equal_integers(case: Case) -> None:
    spec, constants = case.spec, case.constants
    for keys in LENGTHS:
        scores, mask = rows(4.0, keys)
        codes = spec.encode(scores, constants)
        assert (spec.encode(torch.tensor(scores), constants).numpy() == codes).all()
        array = spec.golden(codes, mask, constants)
        assert array.dtype == np.int64
        tensor = spec.golden(torch.tensor(codes), torch.tensor(mask), constants)
        assert (tensor.numpy() == array).all()
        decoded = spec.decode(tensor, constants)
        assert (decoded.numpy() == spec.decode(array, constants)).all()


@every_case
def test_layout_never_changes_an_integer(case: Case) -> None:
    spec, constants = case.spec, case.constants
    scores, mask = rows(3.0, 40)
    codes = spec.encode(scores, constants)
    whole = spec.golden(codes, mask, constants)
    assert (
        spec.golden(codes.reshape(4, 5, 10, 40), mask.reshape(4, 5, 10, 40), constants).reshape(200, 40) == whole
    ).all()
    for row in (0, 12, 100):
        assert (spec.golden(codes[row], mask[row], constants) == whole[row]).all()
    # Masked keys at the end do not change the result.
    longer = np.concatenate([codes, codes[:, ::-1]], axis=1)
    attended = np.concatenate([mask, np.zeros_like(mask)], axis=1)
    assert (spec.golden(longer, attended, constants)[:, :40] == whole).all()


@every_case
def test_no_keys_and_no_rows(case: Case) -> None:
    spec, constants = case.spec, case.constants
    for shape in ((3, 0), (0, 5)):
        codes = np.zeros(shape, np.int64)
        assert spec.golden(codes, None, constants).shape == shape
        assert spec.reference(codes.astype(float), **case.parameters).shape == shape


@every_case
def test_narrow_integers_are_widened(case: Case) -> None:
    spec, constants = case.spec, case.constants
    codes = spec.encode(rows(5.0, 40)[0], constants)
    expected = spec.golden(codes, None, constants)
    assert (spec.golden(codes.astype(np.int32), None, constants) == expected).all()
    assert (spec.golden(torch.tensor(codes.astype(np.int32)), None, constants).numpy() == expected).all()


@every_case
def test_results_depend_on_the_order_of_keys_only_as_stated_by_the_cases(case: Case) -> None:
    spec, constants = case.spec, case.constants
    scores, mask = rows(4.0, 256)
    order = np.random.default_rng(0).permutation(256)
    codes = spec.encode(scores, constants)
    moved = spec.golden(codes[:, order], mask[:, order], constants)
    same = (moved == spec.golden(codes, mask, constants)[:, order]).all()
    assert same == BY_METHOD[spec.method].in_any_order(spec)
