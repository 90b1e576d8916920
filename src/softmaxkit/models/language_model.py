"""Small untrained language models, and tokenizers learned from a text."""

from __future__ import annotations

from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    set_seed,
)

from softmaxkit.recipe import Shape


def language_model(shape: Shape, context: int, seed: int) -> PreTrainedModel:
    """Build an untrained causal language model: a GPT-2 for pre-layer norms, a BERT with a causal mask for post-norms.

    Args:
        shape: its dimensions.
        context: maximum number of tokens in its input.
        seed: seed of its initial weights.
    """
    set_seed(seed)
    if shape.norm == "post":
        bert = BertConfig(
            vocab_size=shape.tokens,
            max_position_embeddings=context,
            hidden_size=shape.width,
            intermediate_size=4 * shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            hidden_act=shape.activation,
            initializer_range=shape.initializer_range,
            hidden_dropout_prob=shape.dropout,
            attention_probs_dropout_prob=shape.dropout,
            is_decoder=True,
            pad_token_id=None,
            bos_token_id=0,
            eos_token_id=0,
            use_cache=False,
        )
        return BertLMHeadModel(bert)
    config = GPT2Config(
        vocab_size=shape.tokens,
        n_positions=context,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        activation_function=shape.activation,
        initializer_range=shape.initializer_range,
        resid_pdrop=shape.dropout,
        embd_pdrop=shape.dropout,
        attn_pdrop=shape.dropout,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    return GPT2LMHeadModel(config)


def learned_tokens(text: str, count: int) -> PreTrainedTokenizerBase:
    """Train a byte-level byte-pair encoding on a text and return its tokenizer.

    Args:
        text: the training part of a text.
        count: size of the vocabulary, including the 256 bytes.

    Raises:
        ValueError: the text is too short for a vocabulary of this size.
    """
    learned = ByteLevelBPETokenizer()
    learned.train_from_iterator(text.splitlines(keepends=True), vocab_size=count, min_frequency=2, show_progress=False)
    if learned.get_vocab_size() < count:
        raise ValueError(
            f"byte-pair encoding finds only {learned.get_vocab_size()} tokens in the text, not {count}; "
            "choose fewer tokens or give a longer text"
        )
    return PreTrainedTokenizerFast(tokenizer_object=learned._tokenizer)
