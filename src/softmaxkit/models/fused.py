"""A report of which layers of a model run as fused attention, and why the others do not."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from softmaxkit.kernels.backends import Choice
from softmaxkit.models.calibration import Batch, inputs_of
from softmaxkit.models.examples import example_of
from softmaxkit.models.fused_path import watching_choices
from softmaxkit.models.patch import active_layers
from softmaxkit.models.running import evaluating, run


def fused_layers(model: PreTrainedModel, inputs: Batch | None = None) -> dict[str, Choice]:
    """Report, for each layer with a method, whether mode "fused" runs it in a kernel, and if not, why.

    The model runs once, in evaluation mode and without gradients.

    Args:
        model: a model to which `softmaxkit.apply` has been called.
        inputs: token ids (batch, length), or a dict of the model's inputs; the inputs that `apply` used if None.

    Returns:
        A printable `Choice` for each layer, by the names of `softmaxkit.layers`: `native` is True if a native kernel
        runs, and `refusals` gives the reasons against the preferred back ends. Layers that did not run on these
        inputs are missing.

    Raises:
        ValueError: the model has no method, or its attention function was changed after `apply`.

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
