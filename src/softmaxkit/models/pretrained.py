"""Language models with their tokens: pretrained ones, and checkpoints of our own."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from softmaxkit.models.checkpoint import load

BYTES = 256
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


def read_pretrained(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load a causal language model and its tokenizer, by folder or hub name.

    A model of 256 tokens without a tokenizer reads bytes, as those that `softmaxkit train` writes.

    Raises:
        ValueError: it is not found, is no causal language model, or has no tokenizer.
    """
    try:
        model = load(name) if Path(name).is_dir() else AutoModelForCausalLM.from_pretrained(name)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"cannot load the model {name}: {str(error).strip().splitlines()[0]}") from None
    if not model.can_generate():
        raise ValueError(
            f"{name} is a {type(model).__name__}, not a causal language model; this command measures the "
            "loss of the next token and needs one, such as a GPT-2 or LLaMA"
        )
    if Path(name).is_dir() and not any((Path(name) / file).is_file() for file in TOKENIZER_FILES):
        if model.config.vocab_size == BYTES:
            return model, None
        raise ValueError(f"{name} has no tokenizer; save the model's own there with tokenizer.save_pretrained")
    try:
        return model, AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"cannot load the tokenizer of {name}: {str(error).strip().splitlines()[0]}") from None
