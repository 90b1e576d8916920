"""YAML in which nothing is said twice, and nothing by reference."""

from __future__ import annotations

from typing import Any

import yaml


def load(text: str) -> Any:
    """Return what a YAML text says.

    Raises:
        ValueError: it is no YAML; a key is there twice, of which YAML would take the last in silence; or there are
            aliases, by which a few lines can be endless.
    """
    try:  # composed first: what is nested too deeply ends there
        root, data = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
        events = list(yaml.parse(text, yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"this is no YAML: {' '.join(str(error).split())}") from None
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1
            raise ValueError(f"the alias *{event.anchor} in line {line} is not read; write out what it stands for")
    _check_keys(root)
    return data


def _check_keys(root: Any) -> None:
    """Refuse a key that is there twice."""
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            for place, (key, value) in enumerate(node.value):
                if key.value in keys[:place]:
                    raise ValueError(f"the key {key.value} in line {key.start_mark.line + 1} is there twice")
                nodes.append(value)
