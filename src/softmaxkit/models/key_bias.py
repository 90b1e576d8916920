"""Equalise the log-sums of rows through the key biases, which do not affect softmax but bring ConSmax closer to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from softmaxkit.methods.base.rows import attended_keys
from softmaxkit.models.attention import UnsupportedError, watching
from softmaxkit.models.running import evaluating, run
from softmaxkit.models.switching import is_on, set_implementations, switch_on

SEPARATE = ("k_proj", "key", "k_lin", "k")
"""Names that attention layers use for their key projection."""
JOINT = ("c_attn",)
"""Names that they use for a joint projection of queries, keys and values, in this order."""

RIDGE = 1e-6
"""Regularisation, relative to the mean diagonal of the normal equations: directions in which queries do not vary get
no weight."""

HALF = (torch.float16, torch.bfloat16)

SAME = 1e-3
"""Allowed change of exact softmax's outputs by the fold, relative to the largest: float32 rounding stays below it."""


def fold_log_sums(model: PreTrainedModel, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Fold the part of the rows' log-sums that is linear in their queries into the key biases, in place.

    A row's scores are `q . k / sqrt(d)`. Subtracting a vector w from every scaled key subtracts `w . q` from every
    score of a row. That leaves exact softmax unchanged and brings ConSmax, with one constant for all rows, closer to
    it. w is fitted for each head by least squares to the log-sums of exact softmax.

    Args:
        model: a model with key biases and without rotary positions, such as GPT-2 or BERT; its methods, if any, do
            not run meanwhile. In half precision it runs in float32.
        batches: dicts of the model's inputs.

    Returns:
        The fraction of the log-sums' variance that remains, by attention layer.

    Raises:
        UnsupportedError: the keys have no bias, are shared by a group of heads, or are rotated after the bias; or the
            weights are offloaded.
        ValueError: there are no batches. The model is unchanged if anything is raised.
    """
    batches = [{name: _single(value) for name, value in batch.items()} for batch in batches]
    if not batches:
        raise ValueError("folding log-sums into key biases needs at least one batch")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise UnsupportedError(
            f"the weights of this {type(model).__name__} are offloaded; load it without device_map, or convert it with "
            "fold=False"
        )
    names = {module: name for name, module in model.named_modules()}
    sums: dict[nn.Module, _LogSums] = {}

    def watch(module: nn.Module, query: Tensor, scores: Tensor, mask: Tensor | None) -> None:
        sums.setdefault(module, _LogSums()).add(query, scores, mask)

    switched = [] if is_on(model) else switch_on(model)
    try:
        with evaluating(model), _in_float32(model):
            with watching(watch, exact=True):
                before = run(model, batches[0])[0]
                for batch in batches[1:]:
                    run(model, batch)
            biases = {module: key_bias(module, fit.heads) for module, fit in sums.items()}
            solved = {module: fit.solve() for module, fit in sums.items()}
            original = {module: bias.clone() for module, bias in biases.items()}
            try:
                for module, bias in biases.items():
                    scale = getattr(module, "scaling", None) or sums[module].channels ** -0.5
                    bias.sub_(solved[module][0].to(bias) / scale)
                with watching(lambda *_: None, exact=True):
                    after = run(model, batches[0])[0]
                if not (after - before).abs().max() <= SAME * before.abs().max():  # NaN neither
                    raise UnsupportedError(
                        f"{type(model).__name__} transforms its keys after adding their bias, e.g. by rotary "
                        "positions; convert it with fold=False"
                    )
            except BaseException:
                for module, bias in biases.items():
                    bias.copy_(original[module])
                raise
    finally:
        set_implementations(switched)
    return {names[module]: left for module, (_, left) in solved.items()}


def _single(value: Any) -> Any:
    """Return a value, in float32 if it is a tensor of half precision."""
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value


@contextmanager
def _in_float32(model: nn.Module) -> Iterator[None]:
    """Run a model of half precision in float32, which holds its numbers exactly; changed ones are rounded at the end.

    In half precision, rounding changes the outputs as much as rotary positions may.
    """
    halves = [(x, x.dtype) for x in (*model.parameters(), *model.buffers()) if x.dtype in HALF]
    for tensor, _ in halves:
        tensor.data = _single(tensor.data)
    try:
        yield
    finally:
        for tensor, dtype in halves:
            tensor.data = tensor.data.to(dtype)


def key_bias(attention: nn.Module, heads: int) -> Tensor:
    """Return a view of a layer's key bias, (heads, channels).

    Raises:
        UnsupportedError: it has none, or fewer key heads than query heads.
    """
    for name in (*SEPARATE, *JOINT):
        bias = getattr(getattr(attention, name, None), "bias", None)
        if isinstance(bias, Tensor):
            size = len(bias) // 3 if name in JOINT else len(bias)
            own = bias.detach()[size : 2 * size] if name in JOINT else bias.detach()
            width = int(getattr(attention, "head_dim", getattr(attention, "attention_head_size", size // heads)))
            if size == heads * width:
                return own.view(heads, width)
    raise UnsupportedError(
        f"{type(attention).__name__} has no separate key bias for every head; convert it with fold=False"
    )


class _LogSums:
    """The normal equations of a least-squares fit of rows' log-sums to their queries, for each head."""

    def __init__(self) -> None:
        self.heads = self.channels = 0
        self.gram: Tensor | float = 0.0
        self.target: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, query: Tensor, scores: Tensor, mask: Tensor | None) -> None:
        """Add the rows of one call."""
        attended = attended_keys(scores, mask)
        used = attended.any(-1)
        sums = torch.where(attended, scores.double(), -torch.inf).logsumexp(-1)
        self.heads, self.channels = query.shape[1], query.shape[3]
        inputs = torch.cat([query.double(), torch.ones_like(query[..., :1], dtype=torch.float64)], -1)
        inputs = torch.where(used[..., None], inputs, 0.0).transpose(0, 1).flatten(1, 2)
        sums = torch.where(used, sums, 0.0).transpose(0, 1).flatten(1)
        self.gram = self.gram + inputs.transpose(1, 2) @ inputs
        self.target = self.target + (inputs.transpose(1, 2) @ sums[..., None])
        self.squares = self.squares + sums.square().sum(1)

    def solve(self) -> tuple[Tensor, float]:
        """Return the weights, (heads, channels), and the fraction of the variance that they do not explain."""
        assert isinstance(self.gram, Tensor)
        assert isinstance(self.target, Tensor)
        assert isinstance(self.squares, Tensor)
        ridge = RIDGE * self.gram.diagonal(dim1=1, dim2=2).mean(1)
        solution = torch.linalg.solve(
            self.gram + torch.eye(self.channels + 1).to(self.gram) * ridge[:, None, None], self.target
        )
        rows, total = self.gram[:, -1, -1], self.target[:, -1, 0]
        variance = (self.squares - total.square() / rows).clamp(min=1e-12)
        explained = (solution.transpose(1, 2) @ self.gram @ solution)[:, 0, 0]
        left = self.squares - 2 * (solution * self.target).sum((1, 2)) + explained
        return solution[:, :-1, 0], float((left / variance).mean())
