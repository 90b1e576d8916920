"""EXAQ only: levels, the three accumulators, straight-through gradients, serial results, and clips per head."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from unit_checks import agrees, counts_hold, verilator

import softmaxkit
from conftest import tiny_model
from softmaxkit import UQ, Exaq, Q
from softmaxkit.methods.base.rows import masked_softmax
from softmaxkit.methods.exaq.golden import ACCUMULATORS


def test_variants_name_the_differences() -> None:
    assert Exaq(bits=3, clip="searched", scores=Q(5, 3)).variant == "3 bits, searched clip, scores=Q(5,3)"


def test_levels_are_rounded_to_nearest_ties_to_even() -> None:
    spec = Exaq(bits=2)
    distance = np.array([0.0, -0.5, -1.0, -1.5, -2.0, -2.5, -3.0, -7.0])  # with clip -3, levels are -3, -2, -1, 0
    result = spec.reference(distance, clip=-3.0)
    levels = np.round(np.log(result / result[0]) + 3)
    assert levels.tolist() == np.round(np.clip(distance, -3, 0) + 3).tolist()


def test_fused_attention_follows_the_clip() -> None:
    module = Exaq(bits=2).module(clip=-4.0)

    def clip() -> float:
        call = module.attention_call()
        assert call is not None
        assert call is module.attention_call()
        (clip,) = call.clips
        assert call.entries == (tuple(module.spec.exponentials(clip)),)
        return clip

    assert clip() == -4.0
    weights = module.state_dict()
    module.set_calibration({"clip": -6.0})
    assert clip() == -6.0
    module.load_state_dict(weights)
    assert clip() == -4.0

    def interrupted() -> None:
        with module.unchanged_on_error():
            module.adopt({"clip": -5.0})
            assert clip() == -5.0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert clip() == -4.0


def test_the_three_accumulators_are_equal() -> None:
    rng = np.random.default_rng(0)
    for bits in (2, 3, 4):
        exponentials = Exaq(bits=bits).constants(clip=-6.0).exponentials
        for keys in (1, 2, 3, 4, 5, 31, 128):
            level = rng.integers(0, 1 << bits, (50, keys))
            attended = rng.random((50, keys)) < 0.7
            level = np.where(attended, level, 0)
            sums = [accumulate(level, attended, bits, exponentials) for accumulate in ACCUMULATORS.values()]
            assert (sums[0] == sums[1]).all()
            assert (sums[0] == sums[2]).all()


def test_a_flipped_table_bit_is_detected() -> None:
    spec = Exaq(bits=3)
    constants = spec.constants(clip=-6.0)
    codes = spec.encode(np.random.default_rng(0).normal(size=(200, 64)) * 2, constants)
    flipped = dataclasses.replace(constants, exponentials=(constants.exponentials[0] ^ 4, *constants.exponentials[1:]))
    assert (spec.golden(codes, None, flipped) != spec.golden(codes, None, constants)).any()


def test_gradients_pass_through_rounding_but_not_below_the_clip() -> None:
    module = Exaq(bits=2).module(clip=-3.0)
    scores = torch.tensor([[0.0, -0.6, -9.0]], requires_grad=True)
    result = module(scores)
    result[0, 0].backward()
    assert scores.grad is not None
    assert scores.grad[0, 2] == 0
    # The gradient of softmax at the quantised scores: levels 0, -1 and -3.
    soft = torch.softmax(torch.tensor([0.0, -1.0, -3.0]), 0)
    assert torch.allclose(result[0], soft)
    assert scores.grad[0, 1] == pytest.approx((-soft[0] * soft[1]).item())


def test_float32_rounds_ties_as_the_reference_does() -> None:
    """Scores on the grid of Q(6,2) fall on midpoints of clips that are multiples of 0.5."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-24, 25, (500, 32), generator=generator) / 4
    for bits in (2, 3, 4):
        for clip in (-3.0, -6.0, -9.0):
            result = Exaq(bits=bits).module(clip=clip)(scores)  # type: ignore[arg-type]
            truth = Exaq(bits=bits).reference(scores.numpy(), clip=clip)  # type: ignore[arg-type]
            assert np.abs(result.numpy() - truth).max() < 1e-6


def test_frozen_constants_suffice_for_integer_mode_but_float_mode_requires_the_clip() -> None:
    module = Exaq().module(mode="integer").eval()
    module.freeze(Exaq().constants(clip=-5.0))
    with torch.no_grad():
        assert torch.equal(module(torch.zeros(1, 2)), torch.full((1, 2), 0.5))
    module.mode = "float"
    with pytest.raises(ValueError, match="requires clip"):
        module(torch.zeros(3))


def test_a_missing_or_positive_clip_is_refused() -> None:
    with pytest.raises(ValueError, match=r"clip.* softmaxkit\.calibrate"):
        softmaxkit.softmax(torch.zeros(2, 3), Exaq())
    with pytest.raises(ValueError, match="must be negative and finite"):
        softmaxkit.softmax(torch.zeros(2, 3), Exaq(), clip=1.0)
    with pytest.raises(ValueError, match="must be negative and finite"):
        Exaq().partial(clip=1.0, maximum=torch.zeros(2, 1))
    module = Exaq().module()
    module.set_calibration({"clip": 1.0})
    with pytest.raises(ValueError, match="must be negative and finite"):
        module(torch.zeros(2, 3))


NARROW = Exaq(scores=Q(4, 2), exponential=UQ(1, 5), reciprocal=UQ(1, 5), reciprocal_segments=4, output=UQ(1, 5))
SERIAL: list[tuple[Exaq, dict[str, Any], int]] = [
    (NARROW, {"max_row": 100}, 1),
    (Exaq(), {"storage": "memory"}, 1),
    (Exaq(accumulator="plain"), {"depth": 5, "storage": "memory"}, 1),
    (Exaq(accumulator="histogram"), {"storage": "memory"}, 1),
    (Exaq(bits=3), {"lanes": 2, "storage": "memory"}, 2),
    (Exaq(bits=4, accumulator="histogram"), {"storage": "memory"}, 2),
    (
        dataclasses.replace(NARROW, output=UQ(0, 4), accumulator="histogram"),
        {"lanes": 2, "max_row": 100, "storage": "latches"},
        2,
    ),
    (dataclasses.replace(NARROW, reciprocal_segments=1, output=UQ(1, 20)), {"max_row": 128, "storage": "memory"}, 1),
    (dataclasses.replace(NARROW, reciprocal_segments=256), {"max_row": 128, "storage": "memory"}, 1),
]
"""Units that compute a row's results serially: spec, sizes, and bits per cycle."""


@verilator
@pytest.mark.parametrize("baked", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    ("spec", "sizes", "digit"),
    [pytest.param(*serial, marks=pytest.mark.slow if at else []) for at, serial in enumerate(SERIAL)],
)
def test_serial_results(spec: Exaq, sizes: dict[str, Any], digit: int, baked: bool) -> None:
    unit = spec.unit(constants=spec.constants(clip=-3.0) if baked else None, **{"lanes": 1, **sizes})
    assert unit.passes.digit == digit
    agrees(unit)
    if baked:
        counts_hold(unit)


def test_results_are_serial_if_a_row_takes_longer() -> None:
    spec = Exaq()
    assert [spec.unit(lanes=lanes).passes is None for lanes in (1, 2, 3, 16)] == [False, False, True, True]
    assert [spec.unit(lanes=1, max_row=length).interval(1) for length in (60, 100, 200)] == [4, 70, 128]
    assert {Exaq(bits=bits).unit(lanes=1).interval(256) for bits in (2, 3, 4)} == {256}


@pytest.mark.parametrize("constants", [{"exponentials": (1, 2, 3, 32767)}, {"thresholds": (-9, -5, 1)}])
def test_constants_that_map_the_maximum_to_less_than_one_are_refused(constants: dict[str, Any]) -> None:
    wrong = dataclasses.replace(Exaq().constants(clip=-5.0), **constants)
    message = "with a last threshold of at most 0 and a last exponential of at least 32768"
    with pytest.raises(ValueError, match=message):
        Exaq().unit(constants=wrong)
    with pytest.raises(ValueError, match=message):
        Exaq().unit().writes(wrong)


def head_scores(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return scores of 3 heads with different spread, (2, 3, 40, 40), and a causal mask."""
    spread = torch.tensor([0.5, 2.0, 6.0])[:, None, None]
    scores = spread * torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(seed))
    return scores, torch.ones(40, 40, dtype=torch.bool).tril()


@pytest.mark.parametrize("scale", ["format", "calibrated"])
@pytest.mark.parametrize("mode", ["float", "integer"])
def test_heads_with_their_own_clips_equal_single_layers(mode: str, scale: str) -> None:
    scores, mask = head_scores()
    spec = Exaq(bits=3, clip="searched", share="head", scale=scale)  # type: ignore[arg-type]
    module = spec.module(heads=3, mode=mode)
    calibrator = module.calibrator()
    calibrator.observe(scores, mask.expand_as(scores))
    module.adopt(calibrator.finish())
    assert len(set(module.calibration["clip"])) == 3
    whole = module(scores, mask)
    for head in range(3):
        alone = dataclasses.replace(spec, share="layer").module(mode=mode)
        of_head = alone.calibrator()
        of_head.observe(scores[:, head], mask.expand_as(scores[:, head]))
        alone.adopt(of_head.finish())
        assert alone.calibration == module.calibration_of(head)
        # In float mode a kernel runs the layer, and torch the heads: each within two roundings of 1.
        assert torch.allclose(whole[:, head], alone(scores[:, head], mask), atol=0 if mode == "integer" else 2.0**-22)
        assert module.constants.of_head(head) == alone.constants


@pytest.mark.parametrize(
    ("clip", "bits", "slope", "offset"),
    [
        # From the code published with the paper, arXiv 2410.03185.
        ("gaussian", 2, -1.66, -1.85),
        ("gaussian", 3, -1.75, -2.06),
        ("gaussian", 4, -1.83, -2.27),
        ("laplace", 2, -4.01, -1.77),
        ("laplace", 4, -6.82, -0.15),
    ],
)
def test_fitted_clips_are_the_papers(clip: Any, bits: int, slope: float, offset: float) -> None:
    scores = torch.randn(1, 1, 20, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    scores[0, 0, 0, 0] = -80.0  # below every clip, which is never lower than the lowest distance
    calibrator = Exaq(bits=bits, clip=clip).module().calibrator()
    attended = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    attended[0, 0, 0, 0] = True
    calibrator.observe(scores, attended)
    distance = (scores - scores.where(attended, -torch.inf).amax(-1, keepdim=True))[attended]
    about = distance - distance.mean()
    spread = float(about.abs().mean() if clip == "laplace" else about.square().mean().sqrt())
    calibrated = calibrator.finish()
    assert calibrated["statistics"]["spread"] == pytest.approx(spread, rel=1e-12)
    assert calibrated["clip"] == pytest.approx(slope * spread + offset, rel=1e-12)


@pytest.mark.parametrize("clip", [[-3.0, -4.0], np.array([-3.0, -4.0]), torch.tensor([-3.0, -4.0])], ids=type)
def test_clips_of_several_heads_are_refused_where_one_is_needed(clip: Any) -> None:
    with pytest.raises(ValueError, match="clip must be a single number here, got one for each of 2 heads"):
        Exaq().reference(np.zeros(3), clip=clip)
    with pytest.raises(ValueError, match="clip must be a single number here, got one for each of 2 heads"):
        Exaq().partial(clip=clip, maximum=torch.zeros(1))


@pytest.mark.parametrize("clip", ["gaussian", "laplace", "naive", "searched", "output"])
def test_heads_are_calibrated_as_if_alone(clip: Any) -> None:
    scores, mask = head_scores()
    values = torch.randn(2, 3, 40, 8, generator=torch.Generator().manual_seed(1))
    attended = mask.expand_as(scores).clone()
    absent = attended.clone()
    absent[:, 1] = False  # in a second batch nothing attends to keys of one head
    spec = Exaq(bits=2, clip=clip, share="head", scale="calibrated")
    together = spec.module(heads=3).calibrator()
    together.observe(scores, attended, values)
    together.observe(scores / 2, absent, values)
    calibrated, alone = together.finish(), []
    for head in range(3):
        calibrator = dataclasses.replace(spec, share="layer").module().calibrator()
        for factor, seen in ((1, attended), (2, absent)):
            calibrator.observe(scores[:, head] / factor, seen[:, head], values[:, head])
        alone.append(calibrator.finish())
    assert calibrated["clip"] == pytest.approx([head["clip"] for head in alone], rel=1e-12)
    assert calibrated["scale"] == [head["scale"] for head in alone]
    joint, heads = calibrated["statistics"], [head["statistics"] for head in alone]
    assert joint["spread"] == pytest.approx(np.mean([head["spread"] for head in heads]), rel=1e-12)
    assert joint["smallest"] == min(head["smallest"] for head in heads)
    assert joint["largest_score"] == max(head["largest_score"] for head in heads)


def sink_attention() -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, mask and values of attention with a sink: all rows attend to the first key, whose value is 0."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1, 2, 200, 200, generator=generator)
    scores[..., 0] += 7
    values = torch.randn(1, 2, 200, 8, generator=generator)
    values[..., 0, :] = 0
    return scores, torch.ones(200, 200, dtype=torch.bool).tril(), values


def test_a_clip_searched_on_the_output_reduces_its_error() -> None:
    scores, mask, values = sink_attention()
    attended = mask.expand_as(scores)
    truth = masked_softmax(scores, attended) @ values
    errors, clips = {}, {}
    for clip in ("searched", "output"):
        module = Exaq(bits=2, clip=clip).module()  # type: ignore[arg-type]
        calibrator = module.calibrator()
        probabilities = calibrator.observe(scores, attended, values)
        assert torch.equal(probabilities, masked_softmax(scores, attended))
        module.adopt(calibrator.finish())
        errors[clip] = torch.linalg.vector_norm(module(scores, mask) @ values - truth, dim=-1).sum()
        clips[clip] = module.calibration["clip"]
    assert clips["output"] != clips["searched"]
    assert errors["output"] < 0.9 * errors["searched"]
    with pytest.raises(ValueError, match="requires values: calibrate a model"):
        Exaq(clip="output").module().calibrator().observe(scores, attended)


def test_calibration_of_a_model_observes_its_values() -> None:
    tokens = torch.randint(0, 100, (4, 20), generator=torch.Generator().manual_seed(0))
    model = softmaxkit.apply(tiny_model("llama"), Exaq(bits=2, clip="output", share="head"))
    softmaxkit.calibrate(model, [tokens])
    assert all(len(module.calibration["clip"]) == 4 for module in softmaxkit.layers(model).values())


def test_golden_of_several_heads_equals_the_kernel() -> None:
    scores, mask = head_scores(1)
    module = Exaq(bits=2, share="head").module(heads=3, mode="integer", clip=[-2.0, -5.0, -9.0])
    with torch.no_grad():
        by_kernel = module(scores, mask)
        by_golden = module.decoded_golden(scores, mask.expand_as(scores))
    assert torch.equal(by_kernel, by_golden)
    scores.requires_grad_()
    module(scores, mask).square().sum().backward()
    assert scores.grad is not None
    assert scores.grad.abs().sum() > 0


def test_clips_of_heads_survive_a_checkpoint(tmp_path: Path) -> None:
    model = softmaxkit.apply(tiny_model("llama"), Exaq(bits=2, clip="searched", share="head"), mode="integer")
    tokens = torch.randint(0, 100, (4, 20), generator=torch.Generator().manual_seed(0))
    softmaxkit.calibrate(model, [tokens])
    before = model(tokens).logits
    softmaxkit.save(model, tmp_path / "model")
    again = softmaxkit.load(tmp_path / "model")
    softmaxkit.set_mode(again, "integer")
    assert torch.equal(again(tokens).logits, before)
    for name, module in softmaxkit.layers(again).items():
        assert module.constants == softmaxkit.layers(model)[name].constants
        assert module.constants.heads == 4


def test_clips_that_do_not_fit_the_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="clip must be a single number or 2 of them, one per head, got 3"):
        Exaq(share="head").module(heads=2, clip=[-1.0, -2.0, -3.0])
    with pytest.raises(ValueError, match="clip must be a single number, got 2"):
        Exaq().module(heads=2, clip=[-1.0, -2.0])
    with pytest.raises(ValueError, match=r"built for one head, so clip must be a single number, got shape \(2,\)"):
        Exaq(share="head").constants(clip=[-1.0, -2.0])


@pytest.mark.parametrize("kind", [tuple, np.array, torch.tensor])
def test_clips_of_heads_may_be_sequences_arrays_or_tensors(kind: Any) -> None:
    scores, mask = head_scores()
    clips = [-2.0, -5.0, -9.0]
    module, expected = (Exaq(share="head").module(heads=3, clip=clip) for clip in (kind(clips), clips))
    assert torch.equal(module(scores, mask), expected(scores, mask))
    assert torch.equal(module.calibrated, expected.calibrated)


def test_heads_of_different_specs_are_not_stacked() -> None:
    heads = [Exaq(bits=bits).constants(clip=-4.0) for bits in (2, 3)]
    with pytest.raises(ValueError, match="constants of heads to stack must be of one spec"):
        type(heads[0]).stack(heads)
