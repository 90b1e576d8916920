"""CUDA graphs: what was captured once computes new numbers when it is replayed, those of a plain call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from attention_cases import FORMS, OF_HEADS
from torch import Tensor

from softmaxkit import Exact, Exaq, KeyValueCache, PagedKeyValueCache, Softermax, attention

pytest.importorskip("triton")


def calls(query: Tensor) -> Iterator[Callable[[], Tensor]]:
    """Yield what a model may capture, on queries (2, 4, 100, 64), which are scores, too."""
    device, key, value = query.device, torch.randn_like(query), torch.randn_like(query)
    mask, lengths = torch.rand(100, 100, device=device) < 0.5, torch.tensor([40, 100], device=device)
    for spec, numbers in (*FORMS, OF_HEADS):
        yield partial(attention, query, key, value, spec, is_causal=True, **numbers)
        yield partial(attention, query, key, value, spec, mask, **numbers)
        yield partial(attention, query[:, :, :1], key, value, spec, **numbers)
        yield partial(KeyValueCache(key, value).attention, query[:, :, :1], spec, lengths=lengths, **numbers)
    samples = key[0].transpose(0, 1)
    pool = PagedKeyValueCache(16, 16, 4, 64, sample_keys=samples, device=device)
    slots, table = torch.arange(100, device=device), torch.arange(14, device=device).view(2, 7)

    def in_pages() -> Tensor:
        pool.reshape_and_cache(samples, query[0].transpose(0, 1), slots)
        return pool.attention(query[:, :, 0], Exact(), table, lengths)

    yield in_pages
    for mode in ("float", "integer"):
        yield Exact().module(mode=mode)
        yield Softermax().module(mode=mode)
        yield Exaq(bits=2).module(mode=mode, clip=-4.0)


@torch.no_grad()
def test_a_graph_that_is_replayed_computes_what_a_call_does(device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("the interpreter has no graphs")
    query = torch.randn(2, 4, 100, 64, device=device)
    for call in calls(query):
        run = partial(call.to(device), query) if isinstance(call, torch.nn.Module) else call
        run()  # compiles, and puts tables on the card
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = run()
        query.normal_()
        graph.replay()
        assert torch.equal(captured, run()), call
