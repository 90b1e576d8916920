"""Hardware descriptions in YAML: engines with their arrays and buffers, DRAM, and links between chips."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from softmaxkit.engine.limits import LARGEST
from softmaxkit.simulation.strict_yaml import load
from softmaxkit.suggestions import suggestion

FOLDER = "softmaxkit.simulation.machines"
"""The package with the built-in hardware files."""

SUFFIXES = (".yaml", ".yml")

POWER = re.compile(r"[+-]?[0-9.]+[eE][+-]?[0-9]+")
"""A number with an exponent; YAML 1.1 recognises only the form 1.0e+2 and reads others as strings."""


class HardwareError(ValueError):
    """A hardware description is invalid or cannot run a model; the message begins with the key in question."""


@contextmanager
def hardware_named(source: str) -> Iterator[None]:
    """Prefix a `HardwareError`, which names only a key, with the hardware's name or file."""
    try:
        yield
    except HardwareError as error:
        raise HardwareError(f"{source}: {error}") from None


def _about(what: str, least: float = 1e-9, most: float = 1e12) -> dict[str, Any]:
    """Return the metadata of a key: its description, and the bounds of a numeric value.

    The default bounds lie far beyond real hardware, yet keep cycles, times and shares finite.
    """
    return {"what": what, "least": least, "most": most}


@dataclass(frozen=True)
class Arrays:
    """The multiplier arrays of an engine: a QK array and a PV array, both 8-bit."""

    rows: int = field(metadata=_about("keys at a time, and lanes of the softmax unit", 1, LARGEST["rows"]))
    columns: int = field(metadata=_about("channels at a time", 1, LARGEST["columns"]))


@dataclass(frozen=True)
class Buffers:
    """The SRAM buffers of an engine."""

    key_kib: float = field(metadata=_about("size of an engine's key buffer in KiB"))
    value_kib: float = field(metadata=_about("size of an engine's value buffer in KiB"))
    double: bool = field(
        metadata=_about("true for double buffering: load one half while the other is in use; false loads in between")
    )

    @property
    def key_bytes(self) -> int:
        """Bytes of the key buffer."""
        return int(self.key_kib * 1024)

    @property
    def value_bytes(self) -> int:
        """Bytes of the value buffer."""
        return int(self.value_kib * 1024)


@dataclass(frozen=True)
class Dram:
    """The DRAM that all engines of a chip share."""

    bandwidth_gb_per_s: float = field(metadata=_about("bandwidth in GB/s (1e9 bytes)"))
    energy_pj_per_bit: float = field(metadata=_about("energy per bit read or written, in pJ"))
    source: str = field(metadata=_about("the source of the energy figure"))


@dataclass(frozen=True)
class Links:
    """The links between chips."""

    latency_ns: float = field(metadata=_about("time until the first byte of a message arrives, in ns"))
    bandwidth_gb_per_s: float = field(
        metadata=_about("bandwidth of a chip's link in each direction, in GB/s (1e9 bytes)")
    )
    energy_pj_per_bit: float = field(metadata=_about("energy per bit sent over a link, in pJ"))
    source: str = field(metadata=_about("the source of latency, bandwidth and energy"))


@dataclass(frozen=True)
class Hardware:
    """A chip with attention engines.

    The fields are the keys of the YAML file; the keys of a part are nested one level below it.
    """

    name: str = field(metadata=_about("a name for the hardware"))
    process: str = field(
        metadata=_about("the cell process, sky130 or asap7, whose synthesis records give area and energy")
    )
    clock_mhz: float = field(metadata=_about("clock of the engines in MHz"))
    engines: int = field(metadata=_about("attention engines on the chip", 1))
    arrays: Arrays = field(metadata=_about("the arrays of an engine"))
    buffers: Buffers = field(metadata=_about("the buffers of an engine"))
    dram: Dram = field(metadata=_about("the memory of the chip"))
    links: Links = field(metadata=_about("links between chips"))

    @property
    def bytes_per_cycle(self) -> float:
        """DRAM bandwidth in bytes per cycle, shared by all engines."""
        return self.dram.bandwidth_gb_per_s * 1e3 / self.clock_mhz

    @property
    def multipliers(self) -> int:
        """Multipliers of both arrays of all engines."""
        return 2 * self.engines * self.arrays.rows * self.arrays.columns

    def seconds(self, cycles: float) -> float:
        """Return the duration of `cycles` cycles in seconds."""
        return cycles / (self.clock_mhz * 1e6)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict, with the keys of the file."""
        return dataclasses.asdict(self)


def hardware_names() -> list[str]:
    """Return the names of the built-in hardware files."""
    return sorted(file.name.removesuffix(".yaml") for file in files(FOLDER).iterdir() if file.name.endswith(".yaml"))


def read_hardware(name: str) -> Hardware:
    """Read a built-in hardware description by its name, or one from a YAML file.

    Raises:
        ValueError: the file does not exist or is not valid YAML, or a key is unknown, missing or invalid; the message
            gives the file, the path of the key, and the accepted values.
    """
    own = files(FOLDER) / f"{name}.yaml"
    path = Path(name)
    if own.is_file():
        source, text = name, own.read_text(encoding="utf-8")
    elif path.suffix in SUFFIXES or path.is_file():
        try:
            source, text = str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read the hardware {path}: {getattr(error, 'strerror', None) or error}") from None
    else:
        hint = suggestion(name, hardware_names(), "built in are")
        raise ValueError(f"{name!r} is neither built-in hardware nor a {SUFFIXES[0]} file; {hint}")
    try:
        return hardware_from(load(text))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def hardware_from(data: Any) -> Hardware:
    """Return the hardware described by a mapping.

    Raises:
        HardwareError: a key is unknown, missing or invalid; the message gives its path and the accepted values.
    """
    hardware: Hardware = _read(Hardware, data, "")
    from softmaxkit.flow.cells.processes import PROCESSES

    if hardware.process not in PROCESSES:
        raise HardwareError(f"process must be {' or '.join(PROCESSES)}, got {hardware.process!r}")
    beat = hardware.arrays.rows * hardware.arrays.columns
    for part in ("key", "value"):
        if getattr(hardware.buffers, f"{part}_bytes") < beat:
            raise HardwareError(
                f"buffers.{part}_kib must have room for arrays.rows x arrays.columns bytes, at least "
                f"{beat / 1024:g} KiB, got {getattr(hardware.buffers, f'{part}_kib'):g}"
            )
    return hardware


def _read(part: type[Any], data: Any, path: str) -> Any:
    """Build one of the dataclasses above from its mapping; `path` is the prefix of its keys in messages."""
    known = {definition.name: definition for definition in dataclasses.fields(part)}
    if not isinstance(data, Mapping):
        where = path.removesuffix(".") or "hardware"
        raise HardwareError(f"{where} must be a mapping with the keys {', '.join(known)}, got {data!r}")
    for key in data:
        if key not in known:
            raise HardwareError(f"{path}{key} is unknown; {suggestion(str(key), known, 'the valid keys are')}")
    types = typing.get_type_hints(part)
    for key, definition in known.items():
        if key not in data:
            raise HardwareError(f"{path}{key} is missing: {definition.metadata['what']}")
    return part(**{key: _value(types[key], definition, data[key], f"{path}{key}") for key, definition in known.items()})


def _value(kind: type[Any], definition: dataclasses.Field[Any], value: Any, path: str) -> Any:
    """Return the checked value of a key."""
    what, least, most = (definition.metadata[key] for key in ("what", "least", "most"))
    if dataclasses.is_dataclass(kind):
        return _read(kind, value, f"{path}.")
    if kind is bool:
        if not isinstance(value, bool):
            raise HardwareError(f"{path} must be true or false ({what}), got {value!r}")
        return value
    if kind is str:
        if not isinstance(value, str) or not value.strip():
            raise HardwareError(f"{path} must be a non-empty string ({what}), got {value!r}")
        return value
    number = type(value) is int or (type(value) is float and kind is float)
    if not number or not least <= value <= most:  # NaN fails every comparison
        expected = "an integer" if kind is int else "a number"
        text = kind is float and isinstance(value, str) and POWER.fullmatch(value)
        hint = "; YAML reads it as a string: an exponent needs a decimal point and a sign, e.g. 1.0e+2" if text else ""
        raise HardwareError(f"{path} must be {expected} from {least:g} to {most:g} ({what}), got {value!r}{hint}")
    return kind(value)
