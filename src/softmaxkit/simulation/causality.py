"""Whether a transformers model is causal; few configurations state it in a key."""

from __future__ import annotations

from typing import Any

TABLES = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "CAUSAL_IMAGE_MODELING")
"""Tables of transformers' auto classes that list generative models."""

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
"""Tables that list encoders; they may also list models that generate text."""

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
"""Causal models that no table lists: text towers of image-text models, and models that generate audio."""

EITHER = frozenset({"bert-generation"})
"""Models listed only as causal that are encoders unless `is_decoder` is set."""

UNKNOWN = frozenset({"blt_local_encoder", "deepseek_ocr2_encoder"})
"""Models named encoders in which some queries are causal."""


def is_causal(outer: Any, inner: Any) -> bool | None:
    """Return whether no query sees a later key; None if that is unknown, or holds for generated tokens only.

    Args:
        outer: the configuration of the model.
        inner: the configuration of its text part, which may be the same object.
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
    # A text part may have its own type, such as qwen2_vl_text; that of an encoder-decoder may be either half.
    whole = kind.removesuffix("_model").removesuffix("_text")
    names = {kind, outer.model_type} | ({whole} - _types("SEQ_TO_SEQ_CAUSAL_LM"))
    for causal, tables in ((True, TABLES), (False, ENCODER_TABLES)):
        if any(names & _types(table) for table in tables):
            return causal
    return None


def _types(table: str) -> frozenset[str]:
    """Return the model types in a table of transformers' auto classes."""
    from transformers.models.auto import modeling_auto

    return frozenset(getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES", ()))
