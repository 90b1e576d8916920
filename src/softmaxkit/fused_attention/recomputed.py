"""Attention by stripes whose gradients compute the scores again, and so keep none of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from softmaxkit.fused_attention.autocast import without_autocast
from softmaxkit.fused_attention.stripes import ALL, Stripes, part, products
from softmaxkit.kernels.row_call import RowCall

STRIPE = 1 << 20
"""Approximate number of scores of a thread that are computed at once on the CPU, so that they stay in its cache."""
LEAST_ROWS = 64
"""Minimum queries of a stripe there: products of fewer rows take longer."""


def attend_again(stripes: Stripes, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `Stripes.output`; for gradients only the operands are kept."""
    if query.device.type != "cpu":
        return _attend(stripes, query, key, value, bias)
    batch, heads, queries = query.shape[:3]
    key_heads, keys = key.shape[1:3]
    groups, threads = heads // key_heads, torch.get_num_threads()
    # Whole heads at once, one for each thread or more, if what normalises their scores can be divided so.
    fitting = max(1, threads * STRIPE // (groups * queries * keys))
    together = min(key_heads, max(fitting, threads)) if isinstance(stripes.normalise, RowCall) else key_heads
    count = min(batch, max(1, fitting // together))
    most = queries // 4 if stripes.is_causal else queries  # so that most of what causality hides is not computed
    rows = max(LEAST_ROWS, min(most, threads * STRIPE // (count * together * groups * keys)))

    def split(x: Tensor, heads: int) -> list[list[Tensor]]:  # its gradient is one copy, that of slices one for each
        return [list(sequences.split(heads, dim=1)) for sequences in x.split(count)]

    operands = split(query, groups * together), split(key, together), split(value, together)
    outputs = []
    for first, of_sequences in enumerate(zip(*operands, strict=True)):
        sequences, of_heads = slice(first * count, (first + 1) * count), []
        for first_head, given in enumerate(zip(*of_sequences, strict=True)):
            here = slice(first_head * groups * together, (first_head + 1) * groups * together)
            added = None if bias is None else part(bias, sequences, here)
            of_heads.append(_attend(replace(stripes.of(sequences, here), rows=rows), *given, added))
        outputs.append(torch.cat(of_heads, dim=1))
    return torch.cat(outputs)


def _attend(stripes: Stripes, *operands: Tensor | None) -> Tensor:
    if stripes.dropout_p:
        stripes = replace(stripes, seed=int(torch.randint(1 << 62, ())))
    output: Tensor = _Recomputed.apply(stripes, *operands, *stripes.trained)  # type: ignore[no-untyped-call, unused-ignore]
    return output


class _Recomputed(torch.autograd.Function):
    """Keeps the operands, whose scores and weights its gradient computes again."""

    @staticmethod
    def forward(
        ctx: Any, stripes: Stripes, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *learned: Tensor
    ) -> Tensor:
        ctx.stripes = stripes
        ctx.save_for_backward(query, key, value, bias)
        return stripes.output(query, key, value, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        stripes: Stripes = ctx.stripes
        operands = ctx.saved_tensors
        with without_autocast(operands[0].device):
            if not torch.is_grad_enabled():
                return None, *_gradients(stripes, gradients[0], *operands)
            # With create_graph the gradients are differentiated themselves.
            inputs = [x for x in (*operands, *stripes.trained) if x is not None and x.requires_grad]
            output = stripes.output(*operands)
            results = torch.autograd.grad(output, inputs, gradients[0], create_graph=True, allow_unused=True)
        further = iter(results)
        return None, *(next(further) if needs else None for needs in ctx.needs_input_grad[1:])


def _gradients(
    stripes: Stripes, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Return the gradients of queries, keys, values, the bias and what is learned."""
    keys_of, values_of = key.flatten(0, 1), value.flatten(0, 1)
    of_query, of_keys, of_values = torch.empty_like(query), torch.zeros_like(keys_of), torch.zeros_like(values_of)
    of_bias = None if bias is None or not bias.requires_grad else torch.zeros_like(bias)
    of_learned = [torch.zeros_like(x) for x in stripes.trained]
    memories = [stripes.memory(query, key) for _ in range(2)]
    for queries, keys in stripes.places(query.shape[2], key.shape[2]):
        stripe, given = query[:, :, queries], gradient[:, :, queries]
        scores = products(stripe, keys_of[:, keys].mT, memories[0])
        if bias is not None:
            scores = scores + part(bias, ALL, ALL, queries, keys)
        with torch.enable_grad():
            scores = scores.detach().requires_grad_()
            weights = stripes.weights(scores, queries, keys)
        of_weights = products(given, values_of[:, keys].mT, memories[1])
        of_scores, *further = torch.autograd.grad(
            weights, (scores, *stripes.trained), of_weights, materialize_grads=True
        )
        for total, more in zip(of_learned, further, strict=True):
            total += more
        rows = [x.reshape(keys_of.shape[0], -1, x.shape[3]) for x in (weights.detach(), given, of_scores, stripe)]
        of_values[:, keys].baddbmm_(rows[0].mT, rows[1])
        of_keys[:, keys].baddbmm_(rows[2].mT, rows[3])
        of_query[:, :, queries] = products(of_scores, keys_of[:, keys])
        if of_bias is not None:
            stripe_of_bias = part(of_bias, ALL, ALL, queries, keys)
            stripe_of_bias += of_scores.sum_to_size(stripe_of_bias.shape)
    of_operands = of_query, of_keys.unflatten(0, key.shape[:2]), of_values.unflatten(0, value.shape[:2]), of_bias
    return *of_operands, *of_learned
