"""Defaults for training and evaluating models; imports nothing heavy, so that `--help` stays fast."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

FINE_TUNING_RATE = 5e-5
"""Learning rate for pretrained models."""

SMALL_GPT = "small byte-level GPT"
"""Name in records of the model that is trained if no other is chosen."""

BYTES = 256
"""Vocabulary size of a byte-level model."""

WINDOWS = 512
"""Held-out windows over which a loss is measured."""


@dataclass(frozen=True)
class Shape:
    """The architecture of a language model trained from scratch. The defaults are the small byte-level GPT.

    Squared ReLU and widely spread initial weights learn fastest here, and get ConSmax past the bigram plateau.

    Attributes:
        layers: number of layers.
        heads: attention heads in each layer.
        width: channels of the residual stream, a multiple of `heads`.
        norm: layer norm "pre", before each block as in GPT-2, or "post", after it as in BERT.
        activation: of the feed-forward blocks, by its name in transformers.
        initializer_range: standard deviation of the initial weights.
        dropout: dropout probability in training, in all places.
        tokens: vocabulary size; 256 means bytes, more are learned from the text by byte-pair encoding.
    """

    layers: int = 4
    heads: int = 4
    width: int = 128
    norm: Literal["pre", "post"] = "pre"
    activation: str = "relu2"
    initializer_range: float = 0.06
    dropout: float = 0.0
    tokens: int = BYTES

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.width) < 1 or self.width % self.heads:
            raise ValueError(
                "layers and heads must be at least 1, and width a multiple of heads, got "
                f"layers {self.layers}, heads {self.heads}, width {self.width}"
            )
        if self.norm not in ("pre", "post"):
            raise ValueError(f"norm must be 'pre' or 'post', got {self.norm!r}")
        if not 0 <= self.dropout < 1 or not self.initializer_range > 0:
            raise ValueError(
                "dropout must be at least 0 and below 1, and initializer_range positive, got "
                f"dropout {self.dropout}, initializer_range {self.initializer_range}"
            )
        if self.tokens < BYTES:
            raise ValueError(f"tokens must be at least {BYTES}, the number of bytes, got {self.tokens}")

    def describe(self) -> dict[str, Any]:
        """Return the fields as a dict, for records."""
        return asdict(self)


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training run. The defaults train the small GPT from scratch.

    Attributes:
        steps: optimiser steps (AdamW).
        batch: windows per step.
        context: tokens per window.
        learning_rate: peak learning rate, reached after a linear warm-up; it then decays linearly to 0.
        warmup_share: fraction of the steps spent on warm-up.
        weight_decay: applied to all parameters except biases, norms and the methods' own parameters.
        adam_beta2: AdamW's beta2; beta1 is 0.9.
        branch_share: fraction of the exact model's training after which a fine-tuned method branches off.
        constants_rate: learning rate of the methods' own parameters, as a multiple of `learning_rate`.
        conversion_steps: additional steps that convert the trained exact model to a method, instead of training the
            method in its own way; the exact model is trained for as many more steps, for a fair comparison. 0: each
            method is trained in its own way.
        conversion_rate: peak learning rate of a conversion.
        homotopy: fraction of the conversion steps over which exact softmax is blended into the method.
        key_fit: before a conversion, fold the part of the rows' log-sums that is predictable from the queries into
            the key biases.
    """

    steps: int = 1400
    batch: int = 16
    context: int = 64
    learning_rate: float = 4e-3
    warmup_share: float = 0.05
    weight_decay: float = 0.1
    adam_beta2: float = 0.99
    branch_share: float = 0.75
    constants_rate: float = 1.0
    conversion_steps: int = 0
    conversion_rate: float = 1e-3
    homotopy: float = 0.0
    key_fit: bool = False

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.context) < 0 or not self.learning_rate > 0 or self.constants_rate < 0:
            raise ValueError(
                "a recipe needs a positive learning_rate, and steps, batch, context and constants_rate of at least 0, "
                f"got {self.learning_rate}, {self.steps}, {self.batch}, {self.context} and {self.constants_rate}"
            )
        if self.conversion_steps < 0 or not self.conversion_rate > 0 or not 0 <= self.homotopy <= 1:
            raise ValueError(
                "a recipe needs conversion_steps of at least 0, a positive conversion_rate and a homotopy from 0 to 1, "
                f"got {self.conversion_steps}, {self.conversion_rate} and {self.homotopy}"
            )

    def before_conversion(self) -> Recipe:
        """Return the recipe without its conversion."""
        plain = Recipe()
        return replace(
            self,
            conversion_steps=0,
            conversion_rate=plain.conversion_rate,
            homotopy=plain.homotopy,
            key_fit=plain.key_fit,
        )

    @property
    def branch_step(self) -> int:
        """The step at which a fine-tuned method branches off the exact model's training."""
        return max(1, round(self.steps * self.branch_share))

    def describe(self) -> dict[str, Any]:
        """Return the fields as a dict, for records."""
        return asdict(self)


@dataclass(frozen=True)
class TaskRecipe:
    """The hyperparameters for fine-tuning an encoder on a task.

    Attributes:
        examples: maximum number of training examples.
        epochs: passes over them.
        batch: examples per step.
        learning_rate: peak learning rate, reached after a linear warm-up; it then decays linearly to 0.
        length: maximum number of tokens in an example; longer ones are truncated.
    """

    examples: int = 1500
    epochs: int = 3
    batch: int = 16
    learning_rate: float = 1e-4
    length: int = 128

    def __post_init__(self) -> None:
        if min(self.examples, self.epochs, self.batch, self.length) < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"examples, epochs, batch and length must be at least 1, and learning_rate positive, got {self}"
            )

    def describe(self) -> dict[str, Any]:
        """Return the fields as a dict, for records."""
        return asdict(self)
