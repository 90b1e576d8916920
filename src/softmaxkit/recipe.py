"""How models are trained and measured by default; light, so that the command's help can tell it quickly."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

FINE_TUNING_RATE = 5e-5
"""Learning rate for models that come trained."""

SMALL_GPT = "small byte-level GPT"
"""What records call the model that is trained where none is given."""

WINDOWS = 512
"""Held-out windows that a loss is measured on."""


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
    """

    steps: int = 1400
    batch: int = 16
    context: int = 64
    learning_rate: float = 4e-3
    warmup_share: float = 0.05
    weight_decay: float = 0.1
    adam_beta2: float = 0.99
    branch_share: float = 0.75

    @property
    def branch_step(self) -> int:
        """The step at which a fine-tuned method leaves the training of the exact model."""
        return max(1, round(self.steps * self.branch_share))

    def describe(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return asdict(self)
