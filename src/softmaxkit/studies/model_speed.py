"""Speed of a whole language model, for a prompt and for generation, compared with torch's own attention."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import _dynamo as dynamo
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache

from softmaxkit.kernels.backends import backend_name
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.cache import QuantisedCache
from softmaxkit.models.calibration import calibrate
from softmaxkit.models.evaluation import loss_on
from softmaxkit.models.fused import fused_layers
from softmaxkit.models.patch import apply, layers, set_mode
from softmaxkit.models.pretrained import read_pretrained
from softmaxkit.models.running import device_of
from softmaxkit.models.text import read_corpus
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.dtypes import DTYPES
from softmaxkit.studies.machine import processor
from softmaxkit.studies.progress import Stage
from softmaxkit.studies.rounds import in_turn, quartile_ratios
from softmaxkit.studies.speed import torch_with_threads

TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}
"""Dtypes in which the model is measured, with torch's attention and with every method."""
LOSS_WINDOWS = 8
"""Windows of text on which the loss is measured; the first is the prompt. Errors of 8 bits change each a little."""
GRAPHS = 1000
"""Graphs of one function that Dynamo may compile: all models share their code, and from eight on it stops silently."""


@dataclass(frozen=True)
class ModelSpeedOptions:
    """What to measure.

    Attributes:
        model: a causal language model, by folder, hub name or GGUF file.
        specs: methods, run in mode "fused".
        prompt: length of the prompt, in tokens.
        tokens: number of tokens to generate.
        text: a text file, whose held-out part provides the prompt and whose training part calibrates the methods; None
            for the Python standard library's source.
        threads: numbers of threads to measure with.
        rounds: number of rounds, in each of which all models run in turn.
        compiled: measure all models under torch.compile too.
    """

    model: str
    specs: tuple[Spec, ...]
    prompt: int
    tokens: int
    text: Path | None
    threads: tuple[int, ...]
    rounds: int
    compiled: bool = False


class Runner(NamedTuple):
    """A model to time.

    Attributes:
        figures: its entry in the record.
        model: the model, with its attention.
        cache: returns a new empty cache.
        run: the model, or the model compiled.
    """

    figures: dict[str, Any]
    model: PreTrainedModel
    cache: Callable[[], Cache]
    run: Callable[..., Any]


def measure_model_speed(options: ModelSpeedOptions, command: Sequence[str], stage: Stage) -> dict[str, Any]:
    """Time a prompt and the generation after it, with torch's attention and with every method.

    Args:
        options: what to measure.
        command: the command line, for the record.
        stage: reports progress.

    Returns:
        The record: a result for each runner and number of threads, with `prompt_tokens_per_second` and
        `generated_tokens_per_second`, medians over the rounds; their ratios to torch's in each dtype
        (`prompt_speedup_over_float32`, ...); and `loss_nats` on windows of the prompt's length. Those of methods also
        have `dtype`, `loss_change_from_float_percent`, against their own float mode, and `fused_layers`, the number of
        layers whose prompt, or, over the 8-bit cache, whose next token runs in a native kernel. Compiled models have no
        loss of their own.

    Raises:
        ValueError: the text or model cannot be used.
    """
    model, tokenizer = read_pretrained(options.model, options.prompt + options.tokens, by="--prompt and --generate")
    corpus = read_corpus(options.text, tokenizer)
    windows = corpus.held_out_windows(options.prompt, LOSS_WINDOWS)
    batches = corpus.calibration_batches(options.prompt)
    models = {name: _cast(model, dtype) for name, dtype in TORCH_DTYPES.items()}
    runners = [_rival(cast, name, windows) for name, cast in models.items()]
    for spec in options.specs:
        stage(f"calibrate {spec.name}")  # in float32, which processors without products in bfloat16 run far faster
        calibrated = calibrate(apply(_copy_with_same_weights(models["float32"]), spec), batches)
        for name, cast in models.items():
            stage(f"the loss of {spec.name} in {name}")
            runners += _with_method(cast, name, spec, layers(calibrated), windows)
    if options.compiled:
        tokens = options.prompt + options.tokens
        runners += [_compiled(runner, tokens) for runner in runners if "storage" not in runner.figures]
    results = []
    for threads in options.threads:
        title = f"{options.model}, {threads} thread{'s' if threads > 1 else ''}"
        torch.compiler.reset()  # code is compiled for a number of threads
        with torch_with_threads(threads), torch.inference_mode(), dynamo.config.patch(recompile_limit=GRAPHS):
            runs = [partial(_generate, runner, windows[:1, :-1], options.tokens) for runner in runners]
            seconds = in_turn(runs, options.rounds, stage(title))
        results += [
            {**runner.figures, **_figures(own, seconds, options), "threads": threads}
            for runner, own in zip(runners, seconds, strict=True)
        ]
    inputs = {
        "text": corpus.describe(),
        "model": {"name": options.model, "parameters": model.num_parameters()},
        "prompt_tokens": options.prompt,
        "generated_tokens": options.tokens,
        "loss_windows": len(windows),
        "rounds": options.rounds,
        "kernels": backend_name(),
        "processor": processor(),
    }
    return make_record(command, 0, inputs, results)


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Return a copy of a model in a dtype; it shares the weights if the model has this dtype already."""
    cast = _copy_with_same_weights(model) if dtype == model.dtype else copy.deepcopy(model)
    cast.to(dtype)  # type: ignore[arg-type, unused-ignore]
    cast.eval()
    return cast


def _rival(model: PreTrainedModel, dtype: str, windows: Tensor) -> Runner:
    """Return a model with torch's own attention."""
    figures = {"method": "torch", "variant": dtype, "loss_nats": loss_on(model, windows)}
    return Runner(figures, model, lambda: DynamicCache(config=model.config), model)


def _compiled(runner: Runner, tokens: int) -> Runner:
    """Return a model under torch.compile, in one graph for the prompt and one for a token, over a static cache."""
    figures = {name: figure for name, figure in runner.figures.items() if not name.startswith("loss")}
    figures["storage"] = "static cache, compiled"
    model = runner.model
    return Runner(figures, model, lambda: StaticCache(model.config, tokens), torch.compile(model, dynamic=False))


def _with_method(
    model: PreTrainedModel, dtype: str, spec: Spec, calibrated: Mapping[str, SoftmaxModule], windows: Tensor
) -> list[Runner]:
    """Return a model with a calibrated method in mode "fused", with transformers' cache and with `QuantisedCache`."""
    own = apply(_copy_with_same_weights(model), spec).eval()
    for name, module in layers(own).items():
        module.load_state_dict(calibrated[name].state_dict())
    in_float = loss_on(own, windows)
    set_mode(own, "fused")
    loss = loss_on(own, windows)
    prompt = windows[:1, :-1]
    figures = make_result(
        spec,
        "fused",
        dtype=dtype,
        loss_nats=loss,
        loss_change_from_float_percent=100 * (loss / in_float - 1),
        fused_layers=_native_layers(own, {"input_ids": prompt}),
    )
    plain = Runner(figures, own, lambda: DynamicCache(config=own.config), own)
    cache = QuantisedCache(own.config)
    with torch.inference_mode():
        own(prompt, cache=cache, use_cache=True)
    reading = _native_layers(own, {"input_ids": windows[:1, -1:], "cache": cache})
    if not reading:
        return [plain]
    in_8_bits = {**figures, "storage": "8-bit cache", "fused_layers": reading}
    return [plain, Runner(in_8_bits, own, lambda: QuantisedCache(own.config), own)]


def _native_layers(model: PreTrainedModel, inputs: dict[str, Any]) -> int:
    return sum(choice.native for choice in fused_layers(model, inputs).values())


def _copy_with_same_weights(model: PreTrainedModel) -> PreTrainedModel:
    return copy.deepcopy(model, {id(weights): weights for weights in (*model.parameters(), *model.buffers())})


def _generate(runner: Runner, prompt: Tensor, tokens: int) -> tuple[float, float]:
    """Process a prompt and generate tokens greedily; return the seconds for each of the two."""
    cache, prompt = runner.cache(), prompt.to(device_of(runner.model))
    start = time.perf_counter()
    logits = runner.run(prompt, cache=cache, use_cache=True, logits_to_keep=1).logits
    read = time.perf_counter()
    for _ in range(tokens):
        token = logits[:, -1:].argmax(-1)
        logits = runner.run(token, cache=cache, use_cache=True).logits
    return read - start, time.perf_counter() - read


def _figures(
    own: list[tuple[float, float]], every: list[list[tuple[float, float]]], options: ModelSpeedOptions
) -> dict[str, float]:
    figures = {}
    for part, (name, tokens) in enumerate((("prompt", options.prompt), ("generated", options.tokens))):
        figures[f"{name}_tokens_per_second"] = tokens / statistics.median(times[part] for times in own)
        for rival, theirs in zip(DTYPES, every, strict=False):
            seconds, of_rival = ([times[part] for times in rounds] for rounds in (own, theirs))
            figures[f"{name}_speedup_over_{rival}"] = quartile_ratios(of_rival, seconds)[1]
    return figures
