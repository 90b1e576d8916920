"""Language models of our own, untrained, and their tokens."""

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
    """Make an untrained causal language model: a GPT-2 where layer norms come first, else a BERT that looks back only.

    Args:
        shape: its sizes.
        context: tokens that it reads at most.
        seed: of its weights.
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
    """Learn tokens from a text by byte-pair encoding.

    Args:
        text: it; the part to train on.
        count: how many tokens, the 256 bytes among them.

    Raises:
        ValueError: the text does not give so many.
    """
    learned = ByteLevelBPETokenizer()
    learned.train_from_iterator(text.splitlines(keepends=True), vocab_size=count, min_frequency=2, show_progress=False)
    if learned.get_vocab_size() < count:
        raise ValueError(
            f"the text gives {learned.get_vocab_size()} tokens by byte-pair encoding, not {count}; "
            "ask for fewer, or give a longer text"
        )
    return PreTrainedTokenizerFast(tokenizer_object=learned._tokenizer)
