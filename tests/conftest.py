"""What the tests share: shared data where it exists, small models, and quiet libraries."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import typer

from softmaxkit.kernels import backends, builds, launch

if TYPE_CHECKING:
    from torch.distributed import DeviceMesh
    from transformers import PreTrainedModel

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers reads it: no test asks the network

sys.path.append(str(Path(__file__).parent / "methods"))  # where the cases of each method are, for all tests

# Tests run side by side: more threads than cores make each other wait many times over.
torch.set_num_threads(1)

# The garbage collector would go through all of torch and transformers over and over: a fifth of the tests' time.
gc.set_threshold(20_000, 20, 100)

# Typer reads the signatures of all verbs at every call of the command line: a tenth of a second.
typer.main.get_command = cache(typer.main.get_command)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_CARD = torch.cuda.is_available() and not INTERPRETED

if INTERPRETED and find_spec("triton"):
    from triton import language
    from triton.runtime import interpreter

    def patch_what_is_not_patched(function: Any, patch: Any = interpreter._patch_lang) -> Any:
        """Triton's interpreter looks through its language at every call of a function: a third of the tests' time."""
        modules = (x for x in function.__globals__.values() if x is language or x is language.core)
        return patch(function) if any(language.core.is_builtin(x.load) for x in modules) else None

    interpreter._patch_lang = patch_what_is_not_patched

    # It checks all sums and products of integers for overflow, and looks at what comes out in debug mode alone: 40%.
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=builder.options.debug)

    def dtype_of(kind: Any, make: Any = interpreter._get_np_dtype) -> Any:
        """It makes a table of all dtypes at every operation."""
        if kind.scalar.name not in dtypes:
            dtypes[kind.scalar.name] = make(kind)
        return dtypes[kind.scalar.name]

    dtypes: dict[str, Any] = {}
    interpreter._get_np_dtype = dtype_of

if find_spec("amaranth"):
    from amaranth.hdl import _nir

    def value_of_nets(cls: type[tuple[Any, ...]], nets: Any = ()) -> tuple[Any, ...]:
        """Amaranth looks at the type of every bit of every value that it makes: a quarter of each conversion."""
        return tuple.__new__(cls, (nets,) if isinstance(nets, _nir.Net) else nets)

    _nir.Value.__new__ = value_of_nets

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Give every test the same random numbers, whatever ran before it."""
    # torch.manual_seed also notes the stack, for the day when CUDA starts: 1 to 2 ms before each of thousands of tests.
    torch.default_generator.manual_seed(0)
    if ON_CARD:
        torch.cuda.manual_seed_all(0)


@pytest.fixture(autouse=True)
def quick_collections() -> Iterator[None]:
    """Spare the garbage collector what a test has imported: every training collects garbage, several times."""
    modules = len(sys.modules)
    yield
    if len(sys.modules) > modules:
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def same_back_end() -> Iterator[None]:
    """Forget the back end that a test has chosen by the environment, once that is what it was before."""
    yield
    backends.reset()


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "device" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Return where kernels of GPUs run here: a card, or the CPU, in a process that TRITON_INTERPRET=1 starts so."""
    from softmaxkit.kernels import cards

    if not (INTERPRETED or ON_CARD):
        pytest.skip("there is no CUDA device, and TRITON_INTERPRET is not 1")
    if reason := cards.missing("triton"):
        pytest.skip(reason)
    monkeypatch.delenv(builds.VARIABLE, raising=False)
    backends.reset()
    return torch.device("cuda" if ON_CARD else "cpu")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Return a file of Python source, enough to train a small model for a few steps."""
    from softmaxkit.models.text import standard_library_source

    path = tmp_path / "text.txt"
    path.write_bytes(standard_library_source(30_000))
    return path


@pytest.fixture
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate and follow trainings on few tokens, for tests in which the figures themselves do not matter."""
    monkeypatch.setattr("softmaxkit.models.text.CALIBRATION_BATCHES", 2)
    monkeypatch.setattr("softmaxkit.models.training.CURVE_TOKENS", 512)


@pytest.fixture
def shakespeare() -> Path:
    path = DATA / "tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip(f"no shared data beside the project: {path.name} is missing")
    return path


@pytest.fixture
def no_python(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the program `python` fail: Debian's is python3, and that of an environment need not be on the PATH."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "python").symlink_to("/bin/false")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """One process: parameters are sharded in the same way, and all of each is in it."""
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def sharded(model: PreTrainedModel, mesh: DeviceMesh) -> PreTrainedModel:
    """Shard a GPT-2, block by block."""
    from torch.distributed.fsdp import fully_shard

    for block in model.transformer.h:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def tiny_model(kind: str, layers: int = 2) -> PreTrainedModel:
    """Return a random model with 4 heads over 100 tokens, in evaluation mode, with eager attention."""
    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    common = {
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    model: PreTrainedModel
    if kind == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=100, n_positions=64, n_embd=32, n_layer=layers, n_head=4, bos_token_id=1, eos_token_id=1
            )
        )
    elif kind == "bert":
        model = BertForMaskedLM(BertConfig(**common))
    else:
        model = LlamaForCausalLM(LlamaConfig(**common, num_key_value_heads=2))
    # Wider than usual, so that attention is not flat and a wrong softmax shows.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    model.set_attn_implementation("eager")
    return model.eval()


@pytest.fixture(params=builds.NATIVE)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with the native kernels of each build that runs here; its name."""
    if request.param not in builds.supported():
        pytest.skip(f"no {request.param} kernels run here")
    module = import_module(f"softmaxkit.kernels._{request.param}")
    monkeypatch.setattr(launch, "native", lambda: module)
    return str(request.param)
