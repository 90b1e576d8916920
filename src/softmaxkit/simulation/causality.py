"""Does a query of a transformers model see later keys? Few configurations say so by a key."""

from __future__ import annotations

from typing import Any

TABLES = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "CAUSAL_IMAGE_MODELING")
"""Of the tables of transformers' auto classes, those of models that generate."""

ENCODER_TABLES = (
    "MASKED_LM",
    "MASKED_IMAGE_MODELING",
    "IMAGE",
    "BACKBONE",
    "IMAGE_CLASSIFICATION",
    "ZERO_SHOT_IMAGE_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "AUDIO_CLASSIFICATION",
    "CTC",
    "TOKEN_CLASSIFICATION",
)
"""Those of encoders; a model that generates text may stand there as well."""

CAUSAL = frozenset(
    {
        "aimv2_text_model",
        "clip_text_model",
        "clipseg_text_model",
        "csm",
        "csm_depth_decoder_model",
        "groupvit_text_model",
        "kosmos_2_5_text_model",
        "kosmos_2_text_model",
        "metaclip_2_text_model",
        "musicgen_melody_decoder",
        "owlv2_text_model",
        "owlvit_text_model",
        "videoprism_text_model",
        "xclip_text_model",
    }
)
"""Causal models that stand in no table: towers of text beside images, and models that generate sound."""

EITHER = frozenset({"bert-generation"})
"""Encoders that stand in the table of causal models alone, where they are only with `is_decoder`."""

UNKNOWN = frozenset({"blt_local_encoder", "deepseek_ocr2_encoder"})
"""Encoders by name, of which some queries see no later key."""


def is_causal(outer: Any, inner: Any) -> bool | None:
    """Return whether a query sees no later key; None where it is not known, or only true of what is generated.

    Args:
        outer: the configuration of the model.
        inner: that of its text part, which may be the same one.
    """
    kind = inner.model_type
    if getattr(inner, "is_decoder", False) or getattr(inner, "causal", False):
        return True
    if getattr(inner, "is_causal", None) is False or getattr(inner, "use_bidirectional_attention", 0) in (True, "all"):
        return None if outer.model_type != kind and outer.model_type in _types("IMAGE_TEXT_TO_TEXT") else False
    if kind in UNKNOWN:
        return None
    if kind in CAUSAL:
        return True
    if kind in EITHER or kind in _types("MASKED_LM"):
        return False
    if kind.endswith(("encoder", "_vision", "_vision_model")) or outer.model_type.endswith("_encoder"):
        return False
    # A text part by itself has a type of its own, such as qwen2_vl_text; that of an encoder-decoder may be either part.
    whole = kind.removesuffix("_model").removesuffix("_text")
    names = {kind, outer.model_type} | ({whole} - _types("SEQ_TO_SEQ_CAUSAL_LM"))
    for causal, tables in ((True, TABLES), (False, ENCODER_TABLES)):
        if any(names & _types(table) for table in tables):
            return causal
    return None


def _types(table: str) -> frozenset[str]:
    """Return the types of models in a table of transformers."""
    from transformers.models.auto import modeling_auto

    return frozenset(getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES", ()))
