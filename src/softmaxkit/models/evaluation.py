"""Evaluate a method in a model: held-out loss, and row sums, saturation and error on real scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import attended_keys, masked_softmax
from softmaxkit.models.patch import layers
from softmaxkit.models.running import device_of, evaluating, hooked
from softmaxkit.models.text import windows_at_once
from softmaxkit.models.words import Words

BATCH = 16
LOSS_TOKENS = 256
"""Tokens per chunk of the loss, to limit memory: each has two float32 numbers for every entry of the vocabulary."""
KEPT_SCORES = 1 << 24
"""How many scores of a whole model are kept for inspection; of more, only those of some queries."""
ERROR_BINS = 48
LOWEST_BIN = -24.0
"""Errors are binned by `score - row maximum`, in `ERROR_BINS` bins from here to 0; lower scores fall into the first."""


@dataclass(frozen=True)
class RealScores:
    """The scores of one layer, and its method's probabilities for them.

    Attributes:
        module: the layer's softmax module.
        scores: (batch, heads, queries, keys).
        attended: boolean, same shape.
        probabilities: same shape.
    """

    module: SoftmaxModule
    scores: Tensor
    attended: Tensor
    probabilities: Tensor

    @property
    def ideal(self) -> Tensor:
        """Exact softmax of the same scores, to the method's own base."""
        return masked_softmax(self.scores, self.attended, self.module.spec.base)


def held_out_figures(
    model: PreTrainedModel,
    windows: Tensor,
    words: Words | None = None,
    progress: Callable[[int, int], None] | None = None,
    see_losses: Callable[[Tensor], None] | None = None,
) -> dict[str, float]:
    """Measure how well a model predicts held-out text.

    Args:
        model: a causal language model; its softmax modules run in their current mode.
        windows: tokens, (windows, context + 1); each window is evaluated independently.
        words: the word boundaries of the model's tokens; if None, words are not counted.
        progress: called with the number of windows done and their total.
        see_losses: called with chunks of the token losses in nats, (tokens,), in the order of the text.

    Returns:
        `loss_nats`, the mean over tokens; its `perplexity`; and with `words`, `words_right_percent`, see `Words.tally`.

    Raises:
        FloatingPointError: the loss is NaN or infinite.
    """
    total, right_words, all_words = 0.0, 0, 0
    size = windows_at_once(BATCH, windows.shape[1])
    with evaluating(model):
        for start in range(0, len(windows), size):
            batch = windows[start : start + size].to(device_of(model))
            labels = batch[:, 1:]
            logits = model(input_ids=batch[:, :-1]).logits.flatten(0, 1)
            first_choices = []
            for of_tokens, of_labels in zip(
                logits.split(LOSS_TOKENS), labels.flatten().split(LOSS_TOKENS), strict=True
            ):
                losses = torch.nn.functional.cross_entropy(of_tokens.float(), of_labels, reduction="none")
                total += losses.sum().item()
                if see_losses is not None:
                    see_losses(losses.cpu())
                if words is not None:
                    first_choices.append(of_tokens.argmax(-1))
            if words is not None:
                counted = words.tally(labels, torch.cat(first_choices).view_as(labels) == labels)
                right_words, all_words = right_words + counted[0], all_words + counted[1]
            if progress:
                progress(min(start + size, len(windows)), len(windows))
    loss = total / windows[:, 1:].numel()
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the model's loss on held-out text is {loss}: its weights or a method in it produce NaN or infinity"
        )
    figures = {"loss_nats": loss, "perplexity": perplexity(loss)}
    return figures | ({"words_right_percent": 100 * right_words / all_words} if all_words else {})


def loss_on(model: PreTrainedModel, windows: Tensor) -> float:
    """Return the mean loss in nats per token, computed by `held_out_figures`."""
    return held_out_figures(model, windows)["loss_nats"]


def token_losses(model: PreTrainedModel, windows: Tensor) -> Tensor:
    """Return the loss of every token in nats, float64 (tokens,), computed by `held_out_figures`."""
    losses: list[Tensor] = []
    held_out_figures(model, windows, see_losses=losses.append)
    return torch.cat(losses).double()


def perplexity(loss: float) -> float:
    """Return exp of a loss in nats; infinity if that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def real_scores(model: PreTrainedModel, windows: Tensor) -> list[RealScores]:
    """Run windows through a model and return the scores and probabilities of each of its softmax modules.

    For long windows or large models, only the rows of evenly spaced queries are returned, see `KEPT_SCORES`.
    """
    scores: list[RealScores] = []
    kept = KEPT_SCORES // max(1, len(layers(model)))
    see_scores(model, windows, lambda of_layer: scores.append(_thinned(of_layer, kept)))
    return scores


def see_scores(model: PreTrainedModel, windows: Tensor, see: Callable[[RealScores], None]) -> None:
    """Run windows through a model and call a function with the scores and probabilities of each softmax module."""
    with evaluating(model), watching_scores(model, lambda _, of_layer: see(of_layer)):
        model(input_ids=windows[:, :-1].to(device_of(model)))


def _thinned(layer: RealScores, limit: int) -> RealScores:
    """Return the rows of evenly spaced queries, the last one included, with `limit` scores or fewer in total."""
    batch, heads, queries, keys = layer.scores.shape
    count = max(1, limit // (batch * heads * keys))
    if count >= queries:
        return layer
    chosen = torch.linspace(queries - 1, 0, count, device=layer.scores.device).round().long().flip(0)
    tensors = (x.index_select(-2, chosen) for x in (layer.scores, layer.attended, layer.probabilities))
    return RealScores(layer.module, *tensors)


@contextmanager
def watching_scores(model: PreTrainedModel, see: Callable[[str, RealScores], None]) -> Iterator[None]:
    """Call a function with each layer's name, scores and probabilities whenever a softmax module of a model runs."""

    def watch(name: str) -> Callable[[Any, tuple[Any, ...], Tensor], None]:
        def called(module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            scores, mask = inputs
            attended = attended_keys(scores, mask)
            see(name, RealScores(module, torch.where(attended, scores.float(), 0.0), attended, output.float()))

        return called

    with hooked(module.register_forward_hook(watch(name)) for name, module in layers(model).items()):
        yield


def figures(seen: list[RealScores]) -> dict[str, Any]:
    """Return row sums over all layers, and in integer mode the percentage of scores outside the codes' range."""
    sums = torch.cat([layer.probabilities.sum(-1)[layer.attended.any(-1)] for layer in seen])
    result: dict[str, Any] = {
        "row_sum_mean": sums.mean().item(),
        "row_sum_min": sums.min().item(),
        "row_sum_max": sums.max().item(),
    }
    if all(layer.module.mode == "integer" for layer in seen):
        outside = sum(int((clamped(layer) != layer.scores).sum()) for layer in seen)
        result["saturated_scores_percent"] = 100 * outside / sum(int(layer.attended.sum()) for layer in seen)
    return result


def clamped(seen: RealScores) -> Tensor:
    """Return the scores clamped to the range of their codes."""
    return seen.module.clamp_to_codes(seen.scores)


def error_series(seen: list[RealScores]) -> dict[str, list[float]]:
    """Return the mean absolute error against exact softmax, and the share of scores, by distance to the row maximum."""
    total, error = torch.zeros(ERROR_BINS), torch.zeros(ERROR_BINS)
    width = -LOWEST_BIN / ERROR_BINS
    for layer in seen:
        highest = torch.where(layer.attended, layer.scores, -torch.inf).amax(-1, keepdim=True)
        distance = (layer.scores - highest)[layer.attended]
        index = ((distance - LOWEST_BIN) / width).long().clamp(0, ERROR_BINS - 1).cpu()
        difference = (layer.probabilities - layer.ideal).abs()[layer.attended].cpu()
        total += torch.bincount(index, minlength=ERROR_BINS)
        error += torch.bincount(index, weights=difference, minlength=ERROR_BINS)
    used = total > 0
    centres = LOWEST_BIN + width * (torch.arange(ERROR_BINS) + 0.5)
    return {
        "score_below_maximum": centres[used].tolist(),
        "mean_absolute_error": (error / total)[used].tolist(),
        "share_of_scores": (total / total.sum())[used].tolist(),
    }


def function_series(seen: list[RealScores], points: int = 241) -> dict[str, list[float]]:
    """Sweep one score of a real row, with the others fixed, and return its probability by the method and exactly.

    The row is the last query of the first window, in the first head of the middle layer. Its highest score is swept
    from 10 below to 4 above the highest of the others.
    """
    layer = seen[len(seen) // 2]
    row, attended = layer.scores[0, 0, -1], layer.attended[0, 0, -1]
    best = int(torch.where(attended, row, -torch.inf).argmax())
    others = attended.clone()
    others[best] = False
    centre = row[others].max().item() if others.any() else 0.0
    sweep = torch.linspace(centre - 10, centre + 4, points, device=row.device)
    rows = row.repeat(points, 1)
    rows[:, best] = sweep
    # The module expects scores of all heads, so every head gets the rows; only the first head's result is used.
    scores = rows.expand(1, layer.scores.shape[1], -1, -1).contiguous()
    mask = attended.expand_as(scores)
    with torch.no_grad():
        probabilities = layer.module(scores, mask)
    ideal = masked_softmax(scores, mask, layer.module.spec.base)
    return {
        "score": sweep.tolist(),
        "probability": probabilities[0, 0, :, best].tolist(),
        "exact_probability": ideal[0, 0, :, best].tolist(),
    }
