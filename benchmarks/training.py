"""Time and memory of a training step with long rows: with each method, relative to transformers' own sdpa attention.

A step is a forward and a backward pass, in float32, of a LLaMA with random weights. Each method runs as it does by
default, where gradients compute the scores of long rows again, and with all scores kept.
"""

from __future__ import annotations

import copy
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import softmaxkit
from benchmark import Results, count, machine, machine_line, options, run, timed
from softmaxkit import ConSmax, Exact, Exaq, Softermax, Spec
from softmaxkit.cli.console import name_of
from softmaxkit.models import trained_path
from softmaxkit.record import make_result

METHODS: list[tuple[Spec, dict[str, Any]]] = [
    (Exact(), {}),
    (ConSmax(), {}),
    (Softermax(), {}),
    (Exaq(bits=3), {"clip": -6.0}),
]
HEAD = 64
"""Channels of a head."""


@contextmanager
def keeping_scores() -> Iterator[None]:
    """Let gradients keep all scores."""
    before = trained_path.KEPT
    try:
        trained_path.KEPT = 1 << 62
        yield
    finally:
        trained_path.KEPT = before


def seconds(model: PreTrainedModel, tokens: Tensor) -> float:
    """Return the duration of one step, in seconds."""
    start = time.perf_counter()
    model(tokens, labels=tokens).loss.backward()
    elapsed = time.perf_counter() - start
    model.zero_grad()
    return elapsed


def kept_bytes(model: PreTrainedModel, tokens: Tensor) -> int:
    """Return the bytes of what a forward pass keeps for its gradients, apart from parameters."""
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with saved_tensors_hooks(keep, lambda x: x):
        loss = model(tokens, labels=tokens).loss
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    del loss
    return sum(kept.values())


def measure(arguments: Namespace) -> tuple[dict[str, Any], Results]:
    """Time sdpa, and every method with scores computed again and kept, in every round."""
    tokens = torch.randint(0, 1000, (arguments.batch, arguments.context), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    sdpa = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=1000,
            hidden_size=HEAD * arguments.heads,
            intermediate_size=HEAD * arguments.heads * 8 // 3,
            num_hidden_layers=arguments.layers,
            num_attention_heads=arguments.heads,
            num_key_value_heads=arguments.key_heads,
            max_position_embeddings=arguments.context,
        )
    ).train()
    sdpa.set_attn_implementation("sdpa")
    results: Results = [{"method": "torch", "variant": "sdpa", "mode": "float", "kept_bytes": kept_bytes(sdpa, tokens)}]
    runs: dict[str, Callable[[], float]] = {"sdpa": partial(seconds, sdpa, tokens)}
    for spec, numbers in METHODS:
        model = softmaxkit.apply(copy.deepcopy(sdpa), spec, **numbers).train()

        def step_that_keeps(model: PreTrainedModel = model) -> float:
            with keeping_scores():
                return seconds(model, tokens)

        results.append(make_result(spec, "float", scores="again", kept_bytes=kept_bytes(model, tokens)))
        runs[f"{spec.name}, again"] = partial(seconds, model, tokens)
        with keeping_scores():
            results.append(make_result(spec, "float", scores="kept", kept_bytes=kept_bytes(model, tokens)))
        runs[f"{spec.name}, kept"] = step_that_keeps
    figures = timed(runs, arguments, "train")
    shape = {name: getattr(arguments, name) for name in ("batch", "context", "layers", "heads", "key_heads")}
    return shape | machine(arguments), [result | own for result, own in zip(results, figures.values(), strict=True)]


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table."""
    yield machine_line(record)
    torchs, *results = record["results"]
    yield (
        f"a training step over that of sdpa ({torchs['seconds']:.2f} s, {torchs['kept_bytes'] / 2**20:.0f} MiB kept "
        "for gradients): time, MiB kept; then with all scores kept"
    )
    for again, kept in zip(results[::2], results[1::2], strict=True):
        columns = (f"{x['time_over_sdpa']:8.2f} {x['kept_bytes'] / 2**20:7.0f}" for x in (again, kept))
        yield f"  {name_of(again):28} {'   '.join(columns)}"


def main() -> None:
    """Print the table, and write the record."""
    parser = options(__doc__, rounds=3)
    for name, default, text in (
        ("batch", 1, "sequences of a step"),
        ("context", 2048, "tokens of a sequence"),
        ("layers", 4, "layers of the model"),
        ("heads", 9, "query heads of a layer, of 64 channels"),
        ("key-heads", 3, "key heads, a divisor of the query heads"),
    ):
        parser.add_argument(f"--{name}", type=count, default=default, help=f"{text} (default: {default})")
    run(parser, measure, lines)


if __name__ == "__main__":
    main()
