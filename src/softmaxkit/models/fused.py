"""Which layers of a model run as fused attention, and why the others do not."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from softmaxkit.kernels.backends import Choice
from softmaxkit.models.attention import watching_choices
from softmaxkit.models.calibration import Batch, inputs_of
from softmaxkit.models.examples import example_of
from softmaxkit.models.patch import active_layers
from softmaxkit.models.running import evaluating, run


def fused_layers(model: PreTrainedModel, inputs: Batch | None = None) -> dict[str, Choice]:
    """Say of each layer with a method whether mode "fused" runs it in a native kernel, and if not, why.

    The model runs once, in evaluation and without gradients.

    Args:
        model: a model with a method in it.
        inputs: token ids (batch, length), or a dict of what the model takes; those that `apply` ran on if left out.

    Returns:
        by the names of `softmaxkit.layers`, a `Choice`: `native` says whether a kernel runs, `refusals` why those that
        come first do not; print it to read it. Layers that did not run on these inputs are left out.

    Raises:
        ValueError: the model has no method in it, or another attention function was set since.

    Example:
        >>> for name, choice in softmaxkit.models.fused_layers(model).items():
        ...     print(name, choice)
    """
    names = {id(model.get_submodule(name)): name for name in active_layers(model)}
    choices: dict[str, Choice] = {}

    def watch(attention: nn.Module, choice: Choice) -> None:
        choices[names[id(attention)]] = choice

    with evaluating(model), watching_choices(watch):
        run(model, example_of(model) if inputs is None else inputs_of(inputs))
    return choices
