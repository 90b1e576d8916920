"""Records for tests of the page."""

from __future__ import annotations

from typing import Any

from softmaxkit.methods import METHODS


def result(method: str, variant: str, mode: str, loss: float, **more: Any) -> dict[str, Any]:
    return {
        "method": method,
        "variant": variant,
        "spec": {"schema": 1, "method": method},
        "mode": mode,
        "loss_nats": loss,
        "perplexity": 2.718281828**loss,
        "loss_change_percent": 100 * (loss / 1.72 - 1),
        "row_sum_mean": 1.0,
        "row_sum_min": 0.9,
        "row_sum_max": 1.1,
        "trained_steps": 1600,
        "training_description": "from scratch",
        "series": {
            "training": {
                "step": [1, 2, 3],
                "loss_nats": [5.0, 3.0, 2.0],
                "held_out_step": [3],
                "held_out_loss_nats": [2.1],
            },
            "function": {
                "score": [-1.0, 0.0, 1.0],
                "probability": [0.1, 0.3, 0.7],
                "exact_probability": [0.1, 0.3, 0.6],
            },
            "error": {
                "score_below_maximum": [-2.0, -1.0, 0.0],
                "mean_absolute_error": [1e-5, 1e-3, 1e-2],
                "share_of_scores": [0.2, 0.3, 0.5],
            },
        },
        **more,
    }


def silicon(energy: float) -> dict[str, Any]:
    """Return the figures of a synthesised unit."""
    return {"cells": "sky130", "energy_pj_per_element": energy}


def small_record() -> dict[str, Any]:
    results = [
        result(method, variant, mode, loss)
        for method, variant, loss in [
            ("exact", "", 1.72),
            ("consmax", "", 1.757),
            ("softermax", "", 1.7209),
            ("exaq", "2 bits, naive clip", 2.33),
            ("exaq", "3 bits, searched clip", 1.7232),
        ]
        for mode in ("float", "integer")
    ]
    return {
        "schema": 1,
        "softmaxkit": "0.1.0",
        "command": ["softmaxkit", "compare", "--text", "a b.txt"],
        "seed": 0,
        "inputs": {"text": {"name": "a b.txt", "bytes": 12345, "sha256": "0" * 64}, "windows": 512},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "methods": {name: METHODS[name].about() for name in ("exact", "consmax", "softermax", "exaq")},
        "results": results,
    }
