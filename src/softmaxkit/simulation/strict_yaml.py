"""YAML without duplicate keys and aliases."""

from __future__ import annotations

from typing import Any

import yaml


def load(text: str) -> Any:
    """Parse a YAML text.

    Raises:
        ValueError: the text is not valid YAML; it has a duplicate key, of which YAML would silently use the last; or it
            has aliases, which can expand a few lines without limit.
    """
    try:  # compose first: it raises on text that is nested too deeply
        root, data = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
        events = list(yaml.parse(text, yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"this is not valid YAML: {' '.join(str(error).split())}") from None
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1
            raise ValueError(f"the alias *{event.anchor} in line {line} is not supported; write out its content")
    _check_keys(root)
    return data


def _check_keys(root: Any) -> None:
    """Check that no mapping has duplicate keys.

    Raises:
        ValueError: one has.
    """
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            for place, (key, value) in enumerate(node.value):
                if key.value in keys[:place]:
                    raise ValueError(f"the key {key.value} in line {key.start_mark.line + 1} is a duplicate")
                nodes.append(value)
