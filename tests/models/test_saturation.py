"""Saturated scores are counted and cause a warning; ConSmax's calibration never misses a head's largest score."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import softmaxkit
from conftest import tiny_model
from softmaxkit import ConSmax, Exact, Exaq, Softermax
from softmaxkit.methods.consmax import calibrate as consmax_calibration
from softmaxkit.models.evaluation import figures, real_scores
from softmaxkit.models.patch import layers
from softmaxkit.models.saturation import Magnitudes

TOKENS = torch.randint(0, 100, (4, 4, 20), generator=torch.Generator().manual_seed(0))


def wide_model(factor: float = 6.0) -> Any:
    """Return a model whose scores are far beyond ±32 in its first layer."""
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.h[0].attn.c_attn.weight *= factor
    return model


def percents(model: Any) -> list[float]:
    return [module.statistics["saturated_scores_percent"] for module in layers(model).values()]


def test_of_many_scores_some_rows_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, mask = torch.ones(1, 2, 40, 10), torch.ones(40, 10, dtype=torch.bool).tril()
    monkeypatch.setattr("softmaxkit.models.saturation.COUNTED_SCORES", scores.numel())
    whole, part = Magnitudes(), Magnitudes()
    whole.add(scores, mask)
    part.add(torch.cat([scores, scores]), mask)
    assert whole.attended == 2 * int(mask.sum())
    assert part.attended == 4 * int(mask[::4].sum())
    assert whole.percent_beyond(-0.5, 0.5) == part.percent_beyond(-0.5, 0.5) == 100


def test_magnitudes_count_the_scores_beyond_any_limits() -> None:
    scores = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 20
    scores[..., 0] = 0
    mask = torch.ones(40, 40, dtype=torch.bool).tril()
    seen = Magnitudes()
    for part in scores.split(1):
        seen.add(part, mask)
    attended = scores[..., mask]
    for low, high in ((-32.0, 31.75), (-8.0, 8.0), (-1e3, 1e3)):
        share = 100 * ((attended < low) | (attended > high)).double().mean().item()
        assert seen.percent_beyond(low, high) == pytest.approx(share, rel=0.1)
    assert seen.percent_beyond(-scores.abs().max().item(), scores.abs().max().item()) == 0
    per_head = seen.percent_beyond((-8.0, -1e3, -1e3), (8.0, 1e3, 1e3))
    head = scores[:, 0][..., mask]
    assert per_head == pytest.approx(100 * (head.abs() > 8).double().sum().item() / attended.numel(), rel=0.1)
    assert Magnitudes().percent_beyond(-1, 1) == 0


@pytest.mark.parametrize("spec", [Exaq(bits=3), Softermax()], ids=["exaq", "softermax"])
def test_calibrate_reports_and_warns_of_saturated_scores(spec: Any) -> None:
    model = softmaxkit.apply(wide_model(), spec)
    with pytest.warns(
        UserWarning, match=r"% of the scores of transformer\.h\.0\.attn are outside .* ±31\.75"
    ) as caught:
        softmaxkit.calibrate(model, TOKENS)
    text = str(caught[0].message)
    assert len([w for w in caught if "saturate in integer mode" in str(w.message)]) == 1
    assert "in 1 of 2 layers it is more than 0.01%" in text
    assert "Q(8,2)" in text
    assert ("scale='calibrated'" in text) == ("calibrated" in spec.choices().get("scale", ()))
    first, second = percents(model)
    assert first > 1
    assert second <= 0.01
    # It equals the saturation in integer mode, up to the width of a bin.
    softmaxkit.set_mode(model, "integer")
    seen = [layer for batch in TOKENS for layer in real_scores(model, torch.nn.functional.pad(batch, (0, 1)))]
    assert figures(seen[::2])["saturated_scores_percent"] == pytest.approx(first, rel=0.1)


def test_a_calibrated_scale_saturates_nothing_and_does_not_warn() -> None:
    model = softmaxkit.apply(wide_model(), Exaq(bits=3, scale="calibrated"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        softmaxkit.calibrate(model, TOKENS)
        assert percents(model) == [0, 0]
        # With codes that cover any score, nothing is counted.
        exact = softmaxkit.calibrate(softmaxkit.apply(wide_model(), Exact()), TOKENS)
    assert not any("saturated_scores_percent" in module.statistics for module in layers(exact).values())


def test_consmax_reports_but_fits_its_own_scale() -> None:
    model = softmaxkit.apply(wide_model(), ConSmax())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        softmaxkit.calibrate(model, TOKENS)
    assert all(0 <= percent <= 100 for percent in percents(model))


def calibrated_error(scores: Tensor) -> float:
    """Calibrate a ConSmax of 2 heads on scores and return the largest error of its integers on them."""
    module = ConSmax(ceiling=64.0).module(heads=2, beta=0.0, gamma=[1e3, 1e3]).requires_grad_(False)
    truth = module(scores)
    calibrator = module.calibrator()
    module.observe_with(calibrator)
    module(scores)
    module.observe_with(None)
    module.adopt(calibrator.finish())
    module.mode = "integer"
    return float((module(scores) - truth).abs().max() / truth.abs().max())


@pytest.mark.parametrize("few", [1 << 20, 0], ids=["all rows", "one in four"])
def test_consmax_calibration_sees_every_heads_largest_score(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest score of each head is in a row that sampling every fourth row would miss."""
    monkeypatch.setattr(consmax_calibration, "FEW_SCORES", few)
    scores = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0)) / 4
    scores[1, 0, 5, 3], scores[2, 1, 10, 2] = 9.0, 7.0
    assert calibrated_error(scores) < 0.1


def test_the_percentage_covers_all_batches() -> None:
    model = softmaxkit.apply(wide_model(), Exaq(bits=3))
    nn.init.zeros_(model.transformer.wpe.weight)
    with pytest.warns(UserWarning, match="saturate in integer mode"):
        softmaxkit.calibrate(model, [TOKENS[0], torch.zeros(1, 20, dtype=torch.long)])
    assert percents(model)[0] > 0


@pytest.mark.parametrize("spec", [Softermax(), Exaq(), Exact()])
def test_no_batches_are_refused(spec: Any) -> None:
    model = softmaxkit.apply(wide_model(), spec)
    used = iter(TOKENS)
    list(used)
    with pytest.raises(ValueError, match="there are no batches; pass at least one"):
        softmaxkit.calibrate(model, used)
    assert not any(module.statistics for module in softmaxkit.layers(model).values())


def test_nothing_is_reported_of_a_layer_that_did_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = softmaxkit.apply(wide_model(1.0), Softermax())
    nothing = lambda hidden, *_, **__: (torch.zeros_like(hidden), None)  # noqa: E731
    monkeypatch.setattr(model.transformer.h[1].attn, "forward", nothing)
    softmaxkit.calibrate(model, TOKENS)
    first, second = softmaxkit.layers(model).values()
    assert (first.statistics, second.statistics) == ({"saturated_scores_percent": 0.0}, {})
