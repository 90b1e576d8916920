"""Inputs that used to give silently wrong numbers are now refused with the remedy, or give the right ones."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import softmaxkit
from softmaxkit import FP16, ConSmax, Exact, Exaq, KeyValueCache, Q, Softermax, Spec
from softmaxkit.methods.base.constants import Constants

ROWS = np.arange(-4, 4)[None]


@pytest.mark.parametrize(
    ("spec", "other", "numbers"),
    [
        (Exaq(bits=2), Exaq(bits=3), {"clip": -3.0}),
        (Exaq(bits=3), Exaq(bits=2), {"clip": -3.0}),
        (Exaq(), Exaq(scores=Q(4, 4)), {"clip": -3.0}),
        (ConSmax(), ConSmax(constant="multiplied"), {}),
        (ConSmax(constant="multiplied"), ConSmax(), {}),
        (ConSmax(), ConSmax(tables="shift"), {}),
        (ConSmax(table_format=FP16), ConSmax(), {}),
        (ConSmax(), ConSmax(output_bits=12), {}),
        (Softermax(), Softermax(log2e=True), {}),
        (Softermax(input=Q(6, 4)), Softermax(), {}),
    ],
    ids=str,
)
def test_constants_of_another_spec_are_refused(spec: Spec, other: Spec, numbers: dict[str, Any]) -> None:
    constants = other.constants(**numbers)
    with pytest.raises(ValueError, match=f"built by a different {type(spec).__name__} than the one with"):
        spec.golden(ROWS, None, constants)
    with pytest.raises(ValueError, match="built by a different"):
        spec.unit(lanes=1, constants=constants)
    other.golden(ROWS, None, Constants.from_json.__func__(type(constants), constants.to_json()))  # type: ignore[attr-defined]


def test_constants_serve_every_spec_that_they_do_not_depend_on() -> None:
    constants = Exaq(accumulator="packed", clip="naive").constants(clip=-3.0)
    plain = Exaq(accumulator="plain").golden(ROWS, None, constants)
    assert (plain == Exaq().golden(ROWS, None, constants)).all()
    without = constants.to_json()
    del without["form"]  # a checkpoint of an earlier version
    assert (Exaq().golden(ROWS, None, type(constants).from_json(without)) == plain).all()


@pytest.mark.parametrize(
    ("spec", "code", "numbers"),
    [
        (ConSmax(), 300, {}),
        (ConSmax(), -129, {}),
        (ConSmax(bits=16), 1 << 15, {}),
        (Exact(), 65_536, {}),
        (Exact(), -1, {}),
        (Softermax(), 128, {}),
        (Exaq(), -129, {"clip": -4.0}),
    ],
)
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_codes_out_of_range_are_refused_where_attended(spec: Spec, code: int, numbers: Any, kind: Any) -> None:
    codes, constants = kind([[1, code, 2]]), spec.constants(**numbers)
    with pytest.raises(ValueError, match=rf"score codes of {type(spec).__name__} must be from .* got {code}"):
        spec.golden(codes, None, constants)
    masked = spec.golden(codes, kind([[True, False, True]]), constants)
    assert masked[0, 1] == 0
    assert (masked[0, [0, 2]] == spec.golden(kind([[1, 2]]), None, constants)[0]).all()


@pytest.mark.parametrize(("keys", "largest"), [(256, 0.01), (2048, 0.02), (4096, 0.05)])
def test_the_bound_of_the_online_schedule_means_something_on_long_rows(keys: int, largest: float) -> None:
    spec = Exact(schedule="online")
    constants = spec.constants()
    scores = np.random.default_rng(0).standard_normal((8, keys)) * 3
    codes = spec.encode(scores, constants)
    bound = spec.error_bound(codes, None, constants)
    reference = spec.reference(spec.score_values(codes, constants))
    error = np.abs(spec.decode(spec.golden(codes, None, constants), constants) - reference)
    assert (error <= bound).all()
    assert bound.max() <= largest


def test_module_and_spec_make_the_same_constants_of_the_same_numbers() -> None:
    numbers = {"beta": 2.739, "gamma": 2.741}
    assert ConSmax().module(**numbers).constants == ConSmax().constants(**numbers)
    rng = np.random.default_rng(0)
    for _ in range(50):
        numbers = {"beta": rng.uniform(-3, 5), "gamma": rng.uniform(0.1, 300)}
        for spec in (ConSmax(output_bits=16), ConSmax(tables="whole", output_bits=16)):
            assert spec.module(**numbers).constants == spec.constants(**numbers)


SPECS: list[tuple[Spec, dict[str, Any]]] = [
    (Exact(), {}),
    (Softermax(), {}),
    (Exaq(bits=2), {"clip": -4.0}),
    (ConSmax(), {"beta": 1.0, "gamma": 9.0}),
]


@pytest.mark.parametrize("scale", [math.nan, math.inf, 1e14, 1e3, -1e6])
@pytest.mark.parametrize(("spec", "numbers"), SPECS, ids=lambda x: getattr(x, "method", ""))
def test_scales_beyond_8_bits(spec: Spec, numbers: dict[str, Any], scale: float) -> None:
    query = torch.randn(1, 2, 40, 16, generator=torch.Generator().manual_seed(0))
    given = softmaxkit.attention(query, query, query, spec, scale=scale, **numbers)
    wide = query.double()
    expected = softmaxkit.attention(wide, wide, wide, spec, scale=scale, **numbers)
    if not math.isfinite(scale):
        assert torch.equal(given.isnan(), expected.isnan())
        assert given.isnan().any()
    else:  # the float form: products of 16 terms in float32, where scores near 1e15 select their largest alone
        assert torch.allclose(given.double(), expected, atol=1e-4)


@pytest.mark.parametrize(("spec", "numbers"), SPECS, ids=lambda x: getattr(x, "method", ""))
def test_masks_of_no_or_one_axis_and_zero_channels(spec: Spec, numbers: dict[str, Any]) -> None:
    query, key = torch.randn(2, 1, 2, 3, 8), torch.randn(1, 2, 5, 8)
    for mask in (torch.tensor(True), torch.tensor(False), torch.tensor([True] * 4 + [False]), torch.randn(5)):
        whole = mask.expand(1, 2, 3, 5)
        given, expected = (softmaxkit.attention(query[0], key, key, spec, m, **numbers) for m in (mask, whole))
        assert torch.equal(given, expected)
    assert (softmaxkit.attention(query[0], key, key, spec, torch.tensor(False), **numbers) == 0).all()
    none = torch.zeros(1, 2, 5, 0)
    assert softmaxkit.attention(query[0], key, none, spec, **numbers).shape == (1, 2, 3, 0)
    equal = softmaxkit.attention(none, none, key, spec, **numbers)
    assert torch.allclose(equal, equal[..., :1, :].expand_as(equal))  # all scores are 0


def test_nothing_is_computed_with_numbers_that_nobody_learned() -> None:
    query = torch.zeros(1, 1, 2, 4)
    for spec in (ConSmax(), Exaq()):
        with pytest.raises(ValueError, match=f"{type(spec).__name__} requires"):
            softmaxkit.attention(query, query, query, spec)
        with pytest.raises(ValueError, match=f"{type(spec).__name__} requires"):
            softmaxkit.softmax(query, spec)
    spec = ConSmax()
    rows = softmaxkit.softmax(torch.zeros(3, 100), spec, **spec.start(100)).sum(-1)
    assert torch.allclose(rows, torch.full((3,), np.e))  # 100 keys; rows of 100 / e keys sum to 1


def test_calibration_changes_both_modes_or_none() -> None:
    module = Exaq().module(clip=-4.0)
    with pytest.raises(TypeError):
        module.calibration["clip"] = -2.0  # type: ignore[index]
    module.set_calibration({"clip": -2.0})
    assert module.constants == Exaq().constants(clip=-2.0)


def test_a_cache_made_in_inference_mode_grows_outside_it() -> None:
    tokens = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        cache = KeyValueCache(tokens, tokens)
    for _ in range(3):
        cache.append(tokens, tokens)
    with torch.inference_mode():
        cache.append(tokens, tokens)
    assert len(cache) == 25
    assert torch.equal(cache.keys[:, :, 20:], cache.keys[:, :, :5])


def test_what_float32_does_not_hold_is_no_cached_key() -> None:
    large = torch.full((1, 1, 1, 2), 1e300, dtype=torch.float64)
    with pytest.raises(ValueError, match="finite in float32"):
        KeyValueCache(large, large)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_topk_is_softmax_then_topk_also_of_rows_without_a_finite_maximum(
    native: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[0, [5, 20, 49]] = torch.tensor([9.0, 8.0, 7.0], dtype=dtype)  # one of the largest in each of these chunks
    logits[1] = -torch.inf
    logits[2, 7] = torch.nan
    logits[3, 9] = torch.inf
    logits[4, 1:] = -torch.inf
    if not native:
        from softmaxkit.kernels import backends

        monkeypatch.setattr(backends, "unavailable", lambda name: "this test asks for torch")
    given, expected = softmaxkit.softmax_topk(logits, 3, chunk=16), torch.softmax(logits, -1).topk(3)
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10, torch.float64: 1e-12}[dtype]
    assert torch.allclose(given.values, expected.values, rtol=tolerance, atol=tolerance, equal_nan=True)
    assert (given.indices[0] == expected.indices[0]).all()


def test_replaced_constants_keep_their_form() -> None:
    constants = ConSmax().constants()
    assert replace(constants, exponent=3).form == constants.form == ConSmax(beta0=2.0).constants_form


def test_parts_with_values_and_without_do_not_merge() -> None:
    scores, values = np.zeros((2, 3)), np.ones((3, 4))
    for empty in (Exact().partial(), Softermax().partial(), Exaq().partial(clip=-4.0, maximum=np.zeros((2, 1)))):
        with_values, without = empty.update(scores, values=values), empty.update(scores)
        for one, other in ((with_values, without), (without, with_values)):
            with pytest.raises(ValueError, match="one state has values and the other has not"):
                one.merge(other)
        with pytest.raises(ValueError, match="one state has values and the other has not"):
            with_values.update(scores)
        assert with_values.merge(empty).result().shape == empty.merge(with_values).result().shape == (2, 4)
    maximum = np.zeros((2, 1))
    with pytest.raises(ValueError, match="do not merge"):
        Exaq().partial(clip=-4.0, maximum=maximum).merge(Exaq().partial(clip=-5.0, maximum=maximum))


def test_constants_and_codes_of_another_kind_are_refused_by_decode_too() -> None:
    fp16 = ConSmax(table_format=FP16, output_bits=12).constants(beta=1.0, gamma=2.0)
    for call in (ConSmax().decode, ConSmax().score_values):
        with pytest.raises(ValueError, match="built by a different ConSmax"):
            call(np.array([1]), fp16)
    with pytest.raises(TypeError, match="Exaq requires ExaqConstants"):
        Exaq().decode(np.array([1]), fp16)
    with pytest.raises(TypeError, match="ConSmax requires ConSmaxConstants"):
        ConSmax().decode(np.array([1]), Exaq().constants(clip=-3.0))
    with pytest.raises(ValueError, match="from -128 to 127, got 300"):
        ConSmax().score_values(np.array([300]), ConSmax().constants())
    for wrong in (70000, -3):
        with pytest.raises(ValueError, match=rf"codes of Float\(5,10\) must be from 0 to 65535, got {wrong}"):
            Exact().decode(np.array([1, wrong]), Exact().constants())


def test_a_misspelt_parameter_is_named_where_the_right_one_is_missing() -> None:
    query = torch.zeros(1, 1, 2, 4)
    for call in (
        lambda: softmaxkit.softmax(torch.zeros(3), Exaq(), clp=-3.0),
        lambda: softmaxkit.attention(query, query, query, Exaq(), clp=-3.0),
    ):
        with pytest.raises(TypeError, match="no parameter 'clp'; did you mean 'clip'"):
            call()


@pytest.mark.parametrize(
    ("guess", "name"),
    [
        ("mask", "attn_mask"),
        ("attention_mask", "attn_mask"),
        ("causal", "is_causal"),
        ("dropout", "dropout_p"),
        ("softmax_scale", "scale"),
        ("gqa", "enable_gqa"),
    ],
)
def test_names_of_other_libraries_lead_to_those_of_torch(guess: str, name: str) -> None:
    query = torch.zeros(1, 1, 2, 4)
    for spec in (Exact(), Exaq()):
        with pytest.raises(TypeError, match=f"has no parameter '{guess}'; did you mean '{name}'"):
            softmaxkit.attention(query, query, query, spec, **{guess: None})


def test_every_function_suggests_its_own_arguments() -> None:
    scores, query = torch.zeros(3), torch.zeros(1, 1, 2, 4)
    cache = softmaxkit.KeyValueCache(query, query)
    pool = softmaxkit.PagedKeyValueCache(num_blocks=1, block_size=16, num_kv_heads=1, head_size=4)
    pages, lengths = torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    calls = (
        (partial(softmaxkit.softmax, scores, Exact()), "attn_mask", "did you mean 'mask'"),
        (partial(softmaxkit.softmax, scores, Exact()), "MASK", "did you mean 'mask'"),
        (partial(softmaxkit.softmax, scores, Exact()), "axis", "known parameters are scores, spec, mask, dim, mode"),
        (partial(softmaxkit.explain, Exact(), scores), "modes", "did you mean 'mode'"),
        (partial(softmaxkit.partial_attention, query, query, query, Exact()), "mask", "did you mean 'attn_mask'"),
        (partial(cache.attention, query, Exact()), "length", "did you mean 'lengths'"),
        (partial(pool.attention, query, Exact(), pages, lengths), "max_seqlen", "did you mean 'max_seq_len'"),
        (Exaq().module, "num_heads", "did you mean 'heads'"),
    )
    for call, guess, hint in calls:
        with pytest.raises(TypeError, match=f"with .* has no parameter '{guess}'; {hint}"):
            call(**{guess: None})


def test_a_spec_in_place_of_its_unit_is_named() -> None:
    for call in (softmaxkit.verify, softmaxkit.synthesize):
        with pytest.raises(TypeError, match=r"expected a unit such as .*unit\(lanes=1\), got Exact\(\.\.\.\)"):
            call(Exact())  # type: ignore[operator]


@pytest.mark.parametrize(
    ("guess", "name"), [("Consmax", "ConSmax"), ("QuantizedCache", "QuantisedCache"), ("synthesise", "synthesize")]
)
def test_misspelt_public_names_are_suggested(guess: str, name: str) -> None:
    with pytest.raises(AttributeError, match=f"did you mean '{name}'"):
        getattr(softmaxkit, guess)


def test_integers_under_a_dual_level_say_so() -> None:
    module = Exact().module(mode="integer")
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="does not support forward-mode"):
        module(torch.zeros(3))


def test_public_names_are_suggested_in_any_case_or_not_at_all() -> None:
    for wrong, near in (("EXAQ", "Exaq"), ("softmx", "softmax"), ("numerically_safe_softmax", "softmax")):
        with pytest.raises(AttributeError, match=f"no attribute '{wrong}'; did you mean '{near}'"):
            getattr(softmaxkit, wrong)
    with pytest.raises(AttributeError, match=r"no attribute 'zzz'$"):
        _ = softmaxkit.zzz
