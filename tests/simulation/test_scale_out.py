"""Keys split over chips: the exchanged numbers are those of a method's partial results."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_records import write_records

from softmaxkit import OnlineSoftmax
from softmaxkit.methods import METHODS
from softmaxkit.methods.base.partial import ElementPartial
from softmaxkit.methods.base.spec import Spec
from softmaxkit.simulation.chip import queries_of
from softmaxkit.simulation.hardware import read_hardware
from softmaxkit.simulation.scale_out import has_parts, numbers_exchanged
from softmaxkit.simulation.simulate import SimulationOptions, simulate
from softmaxkit.simulation.workload import PUBLISHED

pytestmark = pytest.mark.filterwarnings("ignore:.*created but never used")

CHANNELS = 12


def state_numbers(spec: Spec, **known: Any) -> int:
    """Return the number of values in a query's partial state, counted in real arrays."""
    scores, values = np.linspace(-1, 1, 5)[None], np.ones((5, CHANNELS))
    parameters = spec.sample_parameters(5, 1.0)
    return numbers_in(spec.partial(**{**parameters, **known}).update(scores, values=values))


def numbers_in(state: Any) -> int:
    """Return the number of values in the arrays of a state, and of the states that it is made of."""
    if isinstance(state, np.ndarray):
        return state.size
    parts = [getattr(state, field.name) for field in fields(state)] if is_dataclass(state) else []
    return sum(map(numbers_in, parts))


def test_numbers_of_an_inner_state_count() -> None:
    inner = OnlineSoftmax().update(np.ones((1, 5)), values=np.ones((5, CHANNELS)))
    assert numbers_in(ElementPartial(METHODS["exact"](), weighted=inner)) == numbers_in(inner) == CHANNELS + 2


@pytest.mark.parametrize("method", [name for name, spec in METHODS.items() if has_parts(spec())])
def test_what_is_exchanged_is_the_partial_state(method: str) -> None:
    spec = METHODS[method]()
    known = {"maximum": np.ones((1, 1))} if spec.dataflow == "row" else {}
    # Such a method needs the row's maximum beforehand, which is a separate exchange.
    assert sum(numbers_exchanged(spec.dataflow, CHANNELS)) == state_numbers(spec, **known)


def test_a_method_without_parts_is_refused() -> None:
    hardware, workload = read_hardware("edge-npu"), PUBLISHED["gpt2"]
    without = [spec for spec in (method() for method in METHODS.values()) if not has_parts(spec)]
    assert {spec.dataflow for spec in without} == {"row"}  # the others have partial results by their nature
    for spec in without:
        with pytest.raises(ValueError, match="has no partial results"):
            spec.partial()
        options = SimulationOptions(workload, hardware, [spec], None, "generation", [64], [2], Path("none"))
        with pytest.raises(ValueError, match="omit --chips"):
            simulate(options, [], print)


def test_chips_wait_for_their_exchanges() -> None:
    hardware, workload = read_hardware("edge-npu"), PUBLISHED["gpt2"]
    spec = METHODS["softermax"]()
    options = SimulationOptions(workload, hardware, [spec], None, "generation", [4096], [1, 2, 3, 1024], Path("none"))
    one, two, three, many = simulate(options, [], print)["results"][0]["chips"]
    assert (one["exchanges"], one["sent_bytes"], one["waiting_seconds"]) == (0, 0, 0.0)
    message = 4 * (workload.channels + 2) * workload.heads
    step = 1e-9 * hardware.links.latency_ns + message / (1e9 * hardware.links.bandwidth_gb_per_s)
    for result, steps in ((two, 1), (three, 2), (many, 10)):
        assert result["waiting_seconds"] == pytest.approx(workload.layers * steps * step)
        assert result["sent_bytes"] == workload.layers * steps * message * result["chips"]
        assert result["seconds"] == result["computing_seconds"] + result["waiting_seconds"]
    assert one["computing_seconds"] > two["computing_seconds"] > many["computing_seconds"]


def test_every_chip_has_its_share_of_the_keys() -> None:
    workload = PUBLISHED["llama-70b"]
    for chips in (1, 2, 3, 7):
        prompt = queries_of(workload, "prompt", 20, chips)
        dealt = [-(-(position + 1) // chips) for position in range(20)]
        assert prompt.last == max(dealt)
        assert prompt.keys >= workload.queries_per_key_head * sum(dealt)
        assert queries_of(workload, "generation", 20, chips).last == -(-20 // chips)


def test_more_links_take_more_energy(tmp_path: Path) -> None:
    spec, hardware = METHODS["softermax"](), read_hardware("edge-npu")
    write_records(tmp_path, spec)
    options = SimulationOptions(PUBLISHED["gpt2"], hardware, [spec], None, "generation", [256], [1, 2, 4], tmp_path)
    result = simulate(options, [], print)["results"][0]
    one, two, four = result["chips"]
    assert one["energy_uj"] == result["energy_uj"]
    assert two["link_energy_uj"] == pytest.approx(8e-6 * two["sent_bytes"] * hardware.links.energy_pj_per_bit)
    assert four["link_energy_uj"] == 4 * two["link_energy_uj"]
