"""Models with a method, and a data set, for the tests of saving."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

import softmaxkit
from conftest import tiny_model
from softmaxkit import Spec
from softmaxkit.models.attention import NAME

TOKENS = torch.randint(0, 100, (8, 4, 20), generator=torch.Generator().manual_seed(0))


def patched(kind: str, spec: Spec, mode: str = "float") -> PreTrainedModel:
    """Return a model with a calibrated method, and learned parameters that differ from their start values."""
    model = softmaxkit.calibrate(softmaxkit.apply(tiny_model(kind), spec, mode=mode), TOKENS[:2])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if NAME in name:
                parameter += torch.linspace(-0.3, 0.3, parameter.numel()).reshape(parameter.shape)
    return model


@torch.no_grad()
def logits(model: Any) -> Tensor:
    output: Tensor = model(TOKENS[0])[0]
    return output


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = TOKENS.flatten(0, 1)[index]
        return {"input_ids": row, "labels": row}
