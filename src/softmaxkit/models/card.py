"""The section of a model card that says which method is in a model, and how to load it."""

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
"""What begins a card where there was none."""


def write_card(folder: Path, model: nn.Module, name: str) -> None:
    """Write the section into a folder's card, in place of an earlier one; take it out where no method is in the model.

    Args:
        folder: with a model in it.
        model: the model.
        name: its folder or hub name, as it is loaded.
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
    """Return the section; empty for a model without a method."""
    forms: dict[str, list[str]] = {}
    for layer, module in layers(model).items():
        spec = json.dumps(module.spec.to_json())
        forms.setdefault(f'{module.spec.title}, mode "{module.mode}": `{spec}`', []).append(layer)
    if not forms:
        return ""
    total = sum(len(of_form) for of_form in forms.values())
    if len(forms) == 1:
        which = f"All {total} layers with a method have {next(iter(forms))}."
    else:
        which = "\n".join(f"- {', '.join(of_form)}: {form}" for form, of_form in forms.items())
    return f"""{BEGIN}
## Attention softmax

Attention layers of this model normalise their scores by a method of softmaxkit in place of softmax.

{which}

```python
import softmaxkit

model = softmaxkit.load({name!r})
```

After `import softmaxkit.models`, transformers' `from_pretrained` loads it as well. Without softmaxkit it refuses to;
`from_pretrained(..., attn_implementation="eager")` then gives the model with exact softmax.
{END}
"""
