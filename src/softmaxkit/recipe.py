"""How models are trained and measured by default; light, so that the command's help can tell it quickly."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

FINE_TUNING_RATE = 5e-5
"""Learning rate for models that come trained."""

SMALL_GPT = "small byte-level GPT"
"""What records call the model that is trained where none is given."""

BYTES = 256
"""Tokens of a model that reads bytes."""

WINDOWS = 512
"""Held-out windows that a loss is measured on."""


@dataclass(frozen=True)
class Shape:
    """A language model that is trained from scratch. The defaults are the small byte-level GPT.

    Squared ReLU and wide starting weights learn fastest here, and get ConSmax off the plateau of bigrams.

    Attributes:
        layers, heads: how many.
        width: of the residual stream.
        norm: layer norm "pre", before each block, as GPT-2 has it, or "post", after it, as BERT has it.
        activation: of the feed-forward blocks, by transformers' name.
        initializer_range: spread of the starting weights.
        dropout: share dropped in training, everywhere.
        tokens: how many different ones; 256 are bytes, more are learned from the text by byte-pair encoding.
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
                "a model has 1 or more layers and heads, and a width that is a multiple of its heads, not "
                f"{self.layers}, {self.heads} and {self.width}"
            )
        if self.norm not in ("pre", "post"):
            raise ValueError(f"norm is 'pre' or 'post', not {self.norm!r}")
        if not 0 <= self.dropout < 1 or not self.initializer_range > 0:
            raise ValueError(
                "dropout is from 0 up to 1 and initializer_range positive, not "
                f"{self.dropout} and {self.initializer_range}"
            )
        if self.tokens < BYTES:
            raise ValueError(f"tokens are {BYTES}, bytes, or more, not {self.tokens}")

    def describe(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return asdict(self)


@dataclass(frozen=True)
class Recipe:
    """All that a training depends on besides text, model and seed. The defaults train the small GPT from scratch.

    Attributes:
        steps: of the optimiser, AdamW.
        batch: windows in a step.
        context: tokens in a window.
        learning_rate: the highest, after a linear warm-up; it then falls linearly to 0.
        warmup_share: share of the steps that warm up.
        weight_decay: of all but biases, norms and the methods' own parameters.
        adam_beta2: of AdamW; its beta1 is 0.9.
        branch_share: share of the exact model's training after which a fine-tuned method leaves it.
        constants_rate: learning rate of the methods' own parameters, as a multiple of the others'.
        conversion_steps: so many steps more that convert the finished exact model to a method, in place of its own way;
            the exact model is trained on by as many, to be compared with. 0: each method comes its own way.
        conversion_rate: the highest learning rate of these.
        homotopy: share of the steps of a conversion over which exact softmax becomes the method.
        key_fit: fold into the key biases what of the rows' log-sums follows from the queries, before a conversion.
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
                "a recipe has a positive learning rate, and steps, batch, context and constants_rate of 0 or more, not "
                f"{self.learning_rate}, {self.steps}, {self.batch}, {self.context} and {self.constants_rate}"
            )
        if self.conversion_steps < 0 or not self.conversion_rate > 0 or not 0 <= self.homotopy <= 1:
            raise ValueError(
                "a recipe's conversion has 0 or more steps, a positive learning rate and a homotopy from 0 to 1, not "
                f"{self.conversion_steps}, {self.conversion_rate} and {self.homotopy}"
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
        """The step at which a fine-tuned method leaves the training of the exact model."""
        return max(1, round(self.steps * self.branch_share))

    def describe(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return asdict(self)


@dataclass(frozen=True)
class TaskRecipe:
    """How an encoder is fine-tuned.

    Attributes:
        examples: to train on, at most.
        epochs: rounds over them.
        batch: examples in a step.
        learning_rate: the highest, after a linear warm-up; it then falls linearly to 0.
        length: tokens of an example, at most.
    """

    examples: int = 1500
    epochs: int = 3
    batch: int = 16
    learning_rate: float = 1e-4
    length: int = 128

    def __post_init__(self) -> None:
        if min(self.examples, self.epochs, self.batch, self.length) < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"examples, epochs, batch and length are 1 or more, and the learning rate positive: {self}"
            )

    def describe(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return asdict(self)
