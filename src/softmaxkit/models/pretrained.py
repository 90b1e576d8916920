"""Load language models with their tokenizers: pretrained ones, and checkpoints that softmaxkit wrote."""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file, extract_commit_hash

from softmaxkit.models.checkpoint import load
from softmaxkit.models.errors import first_line
from softmaxkit.models.examples import positions
from softmaxkit.models.running import evaluating, run
from softmaxkit.models.sources import source_of
from softmaxkit.recipe import BYTES

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


def read_pretrained(
    name: str, context: int, causal: bool = True, by: str = "--context"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load a text model and its tokenizer.

    A model with a vocabulary of 256 and no tokenizer reads bytes, as do the models that `softmaxkit train` writes.

    Args:
        name: folder, hub name, GGUF file or packaged model, see `source_of`.
        context: number of tokens in its inputs.
        causal: require a causal language model, whose loss can be measured; otherwise any model of token ids.
        by: options of the command line that set `context`, for an error.

    Returns:
        The model and its tokenizer, which is None for a model of bytes.

    Raises:
        ValueError: the model cannot be loaded, is of another kind, has too few positions, or has no tokenizer.
    """
    try:
        source = source_of(name)
        model = load(source.place, AutoModelForCausalLM if source.gguf else None, **source.options)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load the model {name}: {error}") from None
    except (KeyError, IndexError, TypeError, struct.error) as error:  # raised by GGUF readers for a damaged file
        raise ValueError(f"cannot load the model {name}: it is damaged ({error})") from None
    longest = positions(model)
    if longest and context > longest:
        raise ValueError(f"{name} reads at most {longest} tokens; give {longest} or less by {by}, not {context}")
    if not causal and (model.config.is_encoder_decoder or model.main_input_name != "input_ids"):
        needs = "decoder_input_ids too" if model.main_input_name == "input_ids" else model.main_input_name
        raise ValueError(
            f"{name} is a {type(model).__name__}, which needs {needs}, and this command passes only token ids; in "
            "Python, softmaxkit.calibrate(model, batches) accepts dicts of any inputs"
        )
    if causal and not _is_causal(model):
        raise ValueError(
            f"{name} is a {type(model).__name__}, not a causal language model; this command measures the loss of the "
            "next token, so give a model such as GPT-2 or LLaMA"
        )
    if source.gguf is None and Path(name).is_dir() and not any((Path(name) / f).is_file() for f in TOKENIZER_FILES):
        if model.config.get_text_config().vocab_size == BYTES:
            return model, None
        raise ValueError(f"{name} has no tokenizer; save the model's tokenizer there with tokenizer.save_pretrained")
    try:
        return model, AutoTokenizer.from_pretrained(source.place, **source.options)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"cannot load the tokenizer of {name}: {first_line(error)}") from None


def shared_pretrained(name: str, context: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Return a causal language model and its tokenizer from `read_pretrained`, caching the most recent one.

    Methods may be put into the model and taken out again, but callers share its weights: to train it, load it with
    `read_pretrained`.
    """
    return _cached(name, context, fingerprint(name))


@lru_cache(maxsize=1)
def _cached(name: str, context: int, fingerprint: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    return read_pretrained(name, context)


def fingerprint(name: str | None) -> str | None:
    """Return an identifier of a model's content: a hash of its files, or its commit on the hub."""
    if name is None:
        return None
    source = source_of(name)
    files = source.files
    if files is None:
        try:
            known = cached_file(source.place, source.gguf or "config.json")
        except OSError:  # loading the model then raises an error with the cause
            return name
        return f"{name}@{extract_commit_hash(known, None)}"
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _is_causal(model: PreTrainedModel) -> bool:
    """Return whether a model's logits for a token do not depend on later tokens."""
    if model.config.is_encoder_decoder or model.main_input_name != "input_ids":
        return False
    first = torch.zeros((1, 4), dtype=torch.long)
    second = torch.tensor([[0, 0, 0, 1]])
    with evaluating(model):
        try:
            logits = [run(model, {"input_ids": tokens}).logits for tokens in (first, second)]
        except AttributeError:
            return False
        except ValueError:  # its method is not calibrated yet
            return True
    if logits[0].shape[:2] != (1, 4):
        return False
    if not all(output.isfinite().all() for output in logits):  # cannot be compared; measuring its loss raises the error
        return True
    return torch.allclose(logits[0][:, :3], logits[1][:, :3], rtol=1e-3, atol=1e-3 * logits[0].abs().max().item())
