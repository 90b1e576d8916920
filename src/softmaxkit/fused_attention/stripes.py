"""Attention with any function that normalises scores, a stripe of queries at a time, and its gradients.

Source: Rabe & Staats 2021, arXiv 2112.05682.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from softmaxkit.kernels.row_call import RowCall
from softmaxkit.methods.base.stripes import is_eager

ALL = slice(None)
Normalise = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True, eq=False)
class Stripes:
    """How attention is computed in stripes; tensors are (batch, heads, tokens, channels), queries scaled already.

    Attributes:
        normalise: returns the weights of (scores, mask), both (batch, heads, queries, keys), or is the call of a kernel
            that does.
        learned: tensors that a function `normalise` uses and that may require gradients.
        rows: queries of a stripe.
        mask: boolean, with four axes that broadcast to the scores; or None.
        is_causal: query i attends to keys 0 to i.
        dropout_p: probability of setting a weight to 0.
        seed: of a dropout that can be repeated; if None, torch's random numbers are used.
    """

    normalise: Normalise | RowCall
    learned: Sequence[Tensor]
    rows: int
    mask: Tensor | None
    is_causal: bool
    dropout_p: float
    seed: int | None = None

    @property
    def trained(self) -> tuple[Tensor, ...]:
        """What weights depend on that requires gradients, apart from scores."""
        given = self.normalise.tensors if isinstance(self.normalise, RowCall) else self.learned
        return tuple(x for x in given if x.requires_grad)

    def of(self, sequences: slice, heads: slice) -> Stripes:
        """Return the same for some of the sequences and heads; only the call of a kernel can be split by heads."""
        normalise = self.normalise
        if isinstance(normalise, RowCall):
            normalise = normalise.of_heads(heads)
        return replace(self, normalise=normalise, mask=None if self.mask is None else part(self.mask, sequences, heads))

    def places(self, queries: int, keys: int) -> Iterator[tuple[slice, slice]]:
        """Yield the queries of each stripe, and the keys that any of these attends to."""
        for first in range(0, queries, self.rows):
            last = min(first + self.rows, queries)
            yield slice(first, last), slice(0, min(last, keys) if self.is_causal else keys)

    def weights(self, scores: Tensor, queries: slice, keys: slice) -> Tensor:
        """Normalise the scores of a stripe, and set some of the weights to 0."""
        attended = None if self.mask is None else part(self.mask, ALL, ALL, queries, keys)
        if self.is_causal:
            attended = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril(queries.start)
        run = self.normalise.run if isinstance(self.normalise, RowCall) else self.normalise
        weights = run(scores, attended)
        if self.seed is None or not self.dropout_p:
            return functional.dropout(weights, self.dropout_p)
        random = torch.Generator(scores.device).manual_seed(self.seed + queries.start)
        kept = torch.empty_like(weights).bernoulli_(1 - self.dropout_p, generator=random)
        return weights * kept / max(1 - self.dropout_p, torch.finfo(weights.dtype).tiny)

    def outputs(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Iterator[Tensor]:
        """Yield the output of each stripe, (batch, heads, queries of the stripe, value channels)."""
        memory = self.memory(query, key)
        keys_of, values_of = key.flatten(0, 1), value.flatten(0, 1)
        for queries, keys in self.places(query.shape[2], key.shape[2]):
            scores = products(query[:, :, queries], keys_of[:, keys].mT, memory)
            if bias is not None:
                scores = scores + part(bias, ALL, ALL, queries, keys)
            weights = self.weights(scores, queries, keys)
            yield products(weights, values_of[:, keys])

    def output(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output, (batch, heads, queries, value channels)."""
        outputs = self.outputs(query, key, value, bias)
        empty = query.new_empty(*query.shape[:2], 0, value.shape[3])
        if torch.is_grad_enabled() or not is_eager():
            return torch.cat([empty, *outputs], dim=2)
        # Outputs that lay between the scores of stripes would keep the memory of all of these in use.
        whole = empty.new_empty(*query.shape[:3], value.shape[3])
        for stripe, output in zip(whole.split(self.rows, dim=2), outputs, strict=False):
            stripe.copy_(output)
        return whole

    def memory(self, query: Tensor, key: Tensor) -> Tensor | None:
        """Return memory for the scores of a stripe, which all use in turn; None where gradients keep them."""
        if torch.is_grad_enabled() or query.device.type != "cpu":
            return None
        batch, heads, queries = query.shape[:3]
        return query.new_empty(batch * heads * min(self.rows, queries) * key.shape[2])


def part(whole: Tensor, *places: slice) -> Tensor:
    """Return part of a mask or a bias along its first axes, of which those of 1 serve all."""
    return whole[tuple(place if size > 1 else ALL for place, size in zip(places, whole.shape, strict=False))]


def products(left: Tensor, right: Tensor, memory: Tensor | None = None) -> Tensor:
    """Multiply (batch, heads, n, m) by matrices (batch * key heads, m, k) that consecutive heads share.

    Heads that share a matrix form one themselves, so that it is not copied for each of them.

    Args:
        left: as above.
        right: as above.
        memory: receives the result.
    """
    rows = left.reshape(right.shape[0], -1, left.shape[3])
    shape = (*rows.shape[:2], right.shape[2])
    result = rows @ right if memory is None else torch.bmm(rows, right, out=memory[: math.prod(shape)].view(shape))
    return result.view(*left.shape[:3], right.shape[2])
