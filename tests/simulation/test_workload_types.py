"""Every model type of transformers is read, or refused in one line, and is causal where its own code is."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

from softmaxkit.simulation.workload import Workload, workload_of

pytestmark = pytest.mark.slow

OTHER_PARTS = ("_vision", "_vision_model", "_encoder")
"""Types whose code shares a file with that of a text part, whose masks the file builds."""

OTHERWISE = {
    "colpali": "a prompt of PaliGemma's text, with the file of Gemma",
    "phi4_multimodal": "the file calls its causal mask by a variable, and one of its images by name",
}


def masks_of(config: Any) -> set[bool]:
    """Return the masks that the modelling code of a configuration's text part builds: causal, other, or both."""
    path = Path(inspect.getfile(type(config.get_text_config())))
    code = path.with_name(path.name.replace("configuration_", "modeling_"))
    text = code.read_text(encoding="utf-8") if code.is_file() else ""
    makers = {True: ("create_causal_mask(", "create_masks_for_generate("), False: ("create_bidirectional_mask(",)}
    return {causal for causal, names in makers.items() if any(name in text for name in names)}


def test_every_type_is_read_or_refused_in_a_line() -> None:
    read: dict[str, Workload] = {}
    refused: dict[str, str] = {}
    compared = 0
    for name in CONFIG_MAPPING_NAMES:
        try:
            config = CONFIG_MAPPING[name]()
        except Exception:  # some cannot be constructed without arguments
            continue
        try:
            read[name] = workload_of(config, name)
        except ValueError as error:
            refused[name] = str(error)
            continue
        masks = masks_of(config)
        if len(masks) == 1 and not name.endswith(OTHER_PARTS) and name not in OTHERWISE:
            assert read[name].causal in masks, name
            compared += 1
    for name, message in refused.items():
        assert message.startswith(name)
        assert "\n" not in message
    assert len(read) > 300
    assert compared > 200
