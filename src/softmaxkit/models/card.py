"""The section of a model card that names the method in a model and explains how to load it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from torch import nn

from softmaxkit.files import write_text
from softmaxkit.models.patch import layers

CARD = "README.md"
BEGIN = "<!-- softmaxkit: this section is written when the model is saved -->"
END = "<!-- softmaxkit: end -->"
FRONT = "---\nlibrary_name: transformers\ntags:\n- softmaxkit\n---\n\n"
"""The front matter of a new card."""


def write_card(folder: Path, model: nn.Module, name: str) -> None:
    """Write the section into a folder's card, replacing an earlier one; remove it if the model has no method.

    Args:
        folder: the folder of a saved model.
        model: the model.
        name: the folder or hub name under which the model is loaded.
    """
    path = folder / CARD
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    rest = re.sub(rf"{re.escape(BEGIN)}.*?{re.escape(END)}\n*", "", before, flags=re.DOTALL)
    section = _section(model, name)
    if section:
        write_text(path, f"{rest.rstrip() + chr(10) * 2 if rest.strip() else FRONT}{section}")
    elif rest.strip() in ("", FRONT.strip()):
        path.unlink(missing_ok=True)
    elif rest != before:
        write_text(path, rest)


def _section(model: nn.Module, name: str) -> str:
    """Return the text of the section; empty for a model without a method."""
    forms: dict[str, list[str]] = {}
    for layer, module in layers(model).items():
        spec = json.dumps(module.spec.to_json())
        forms.setdefault(f'{module.spec.title}, mode "{module.mode}": `{spec}`', []).append(layer)
    if not forms:
        return ""
    total = sum(len(of_form) for of_form in forms.values())
    if len(forms) == 1:
        which = f"All {total} layers that have a method use {next(iter(forms))}."
    else:
        which = "\n".join(f"- {', '.join(of_form)}: {form}" for form, of_form in forms.items())
    return f"""{BEGIN}
## Attention softmax

The attention layers of this model normalise their scores with a method of softmaxkit instead of softmax.

{which}

```python
import softmaxkit

model = softmaxkit.load({name!r})
```

After `import softmaxkit.models`, transformers' `from_pretrained` loads it too. Without softmaxkit, it refuses to;
`from_pretrained(..., attn_implementation="eager")` then loads the model with exact softmax.
{END}
"""
