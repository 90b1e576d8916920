"""Hardware as a small YAML file: engines with their arrays and buffers, memory, and links between chips."""

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
"""The package's own hardware files."""

SUFFIXES = (".yaml", ".yml")

POWER = re.compile(r"[+-]?[0-9.]+[eE][+-]?[0-9]+")
"""A number with an exponent, of which YAML 1.1 knows one form alone."""


class HardwareError(ValueError):
    """Something cannot run on some hardware; the message begins with the key that says so."""


@contextmanager
def hardware_named(source: str) -> Iterator[None]:
    """Name the hardware, or its file, in errors that only name a key."""
    try:
        yield
    except HardwareError as error:
        raise HardwareError(f"{source}: {error}") from None


def _about(what: str, least: float = 1e-9, most: float = 1e12) -> dict[str, Any]:
    """Return what is known of a key: what it is, and the bounds of a number.

    Those of any number are far from what is built, and so near that cycles, times and shares are numbers as well.
    """
    return {"what": what, "least": least, "most": most}


@dataclass(frozen=True)
class Arrays:
    """The multipliers of an engine: a QK array and a PV array, of 8 bits."""

    rows: int = field(metadata=_about("keys at a time, and lanes of the softmax unit", 1, LARGEST["rows"]))
    columns: int = field(metadata=_about("channels at a time", 1, LARGEST["columns"]))


@dataclass(frozen=True)
class Buffers:
    """SRAM of an engine."""

    key_kib: float = field(metadata=_about("KiB of keys an engine holds"))
    value_kib: float = field(metadata=_about("KiB of values an engine holds"))
    double: bool = field(
        metadata=_about("true where one half is loaded while the other is in use; false loads between queries")
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
    """Memory that all engines of a chip share."""

    bandwidth_gb_per_s: float = field(metadata=_about("bandwidth in GB/s (1e9 bytes)"))
    energy_pj_per_bit: float = field(metadata=_about("energy of a bit that is read or written, in pJ"))
    source: str = field(metadata=_about("where the energy is from"))


@dataclass(frozen=True)
class Links:
    """What joins chips."""

    latency_ns: float = field(metadata=_about("time in ns until the first byte of a message arrives"))
    bandwidth_gb_per_s: float = field(
        metadata=_about("bandwidth of a chip's link in each direction, in GB/s (1e9 bytes)")
    )
    energy_pj_per_bit: float = field(metadata=_about("energy of a bit that crosses a link, in pJ"))
    source: str = field(metadata=_about("where latency, bandwidth and energy are from"))


@dataclass(frozen=True)
class Hardware:
    """A chip with attention engines.

    The fields are the keys of the YAML file; those of a part are one level below it.
    """

    name: str = field(metadata=_about("what the hardware is called"))
    process: str = field(
        metadata=_about("the process of its cells, sky130 or asap7, whose records give area and energy")
    )
    clock_mhz: float = field(metadata=_about("clock of the engines in MHz"))
    engines: int = field(metadata=_about("attention engines on the chip", 1))
    arrays: Arrays = field(metadata=_about("the arrays of an engine"))
    buffers: Buffers = field(metadata=_about("the buffers of an engine"))
    dram: Dram = field(metadata=_about("the memory of the chip"))
    links: Links = field(metadata=_about("links between chips"))

    @property
    def bytes_per_cycle(self) -> float:
        """Bytes that the memory gives all engines together in a cycle."""
        return self.dram.bandwidth_gb_per_s * 1e3 / self.clock_mhz

    @property
    def multipliers(self) -> int:
        """Multipliers of both arrays of all engines."""
        return 2 * self.engines * self.arrays.rows * self.arrays.columns

    def seconds(self, cycles: float) -> float:
        """Return the time of some cycles in seconds."""
        return cycles / (self.clock_mhz * 1e6)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict, with the keys of the file."""
        return dataclasses.asdict(self)


def hardware_names() -> list[str]:
    """Return the names of the package's own hardware files."""
    return sorted(file.name.removesuffix(".yaml") for file in files(FOLDER).iterdir() if file.name.endswith(".yaml"))


def read_hardware(name: str) -> Hardware:
    """Read hardware: one of the package's own by its name, or a YAML file.

    Raises:
        ValueError: there is no such file, it is no YAML, or a key is unknown, missing or impossible; the message has
            the file, the path of the key, and what it may be.
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
        hint = suggestion(name, hardware_names(), "there are")
        raise ValueError(f"no hardware is called {name!r}, and it is no {SUFFIXES[0]} file; {hint}")
    try:
        return hardware_from(load(text))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def hardware_from(data: Any) -> Hardware:
    """Return the hardware that a mapping describes.

    Raises:
        HardwareError: a key is unknown, missing or impossible; the message has its path, and what it may be.
    """
    hardware: Hardware = _read(Hardware, data, "")
    from softmaxkit.flow.cells.processes import PROCESSES

    if hardware.process not in PROCESSES:
        raise HardwareError(f"process is {' or '.join(PROCESSES)}, not {hardware.process!r}")
    beat = hardware.arrays.rows * hardware.arrays.columns
    for part in ("key", "value"):
        if getattr(hardware.buffers, f"{part}_bytes") < beat:
            raise HardwareError(
                f"buffers.{part}_kib holds a tile of arrays.rows x arrays.columns bytes at least, {beat / 1024:g} KiB, "
                f"not {getattr(hardware.buffers, f'{part}_kib'):g}"
            )
    return hardware


def _read(part: type[Any], data: Any, path: str) -> Any:
    """Return a part of the hardware from its mapping."""
    known = {each.name: each for each in dataclasses.fields(part)}
    if not isinstance(data, Mapping):
        where = path.removesuffix(".") or "hardware"
        raise HardwareError(f"{where} has the keys {', '.join(known)} below it, not {data!r}")
    for key in data:
        if key not in known:
            raise HardwareError(f"{path}{key} is unknown; {suggestion(str(key), known, 'the keys here are')}")
    types = typing.get_type_hints(part)
    for key, each in known.items():
        if key not in data:
            raise HardwareError(f"{path}{key} is missing: {each.metadata['what']}")
    return part(**{key: _value(types[key], each, data[key], f"{path}{key}") for key, each in known.items()})


def _value(kind: type[Any], each: dataclasses.Field[Any], value: Any, path: str) -> Any:
    """Return the value of a key, checked."""
    what, least, most = (each.metadata[key] for key in ("what", "least", "most"))
    if dataclasses.is_dataclass(kind):
        return _read(kind, value, f"{path}.")
    if kind is bool:
        if not isinstance(value, bool):
            raise HardwareError(f"{path} is true or false ({what}), not {value!r}")
        return value
    if kind is str:
        if not isinstance(value, str) or not value.strip():
            raise HardwareError(f"{path} is a text ({what}), not {value!r}")
        return value
    number = type(value) is int or (type(value) is float and kind is float)
    if not number or not least <= value <= most:  # no comparison holds for one that is not a number
        whole = "whole number" if kind is int else "number"
        text = kind is float and isinstance(value, str) and POWER.fullmatch(value)
        hint = "; YAML takes it for a text: a power of ten has a point and a sign there, as 1.0e+2" if text else ""
        raise HardwareError(f"{path} is a {whole} from {least:g} to {most:g} ({what}), not {value!r}{hint}")
    return kind(value)
