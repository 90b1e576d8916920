"""The example in the AccelForge package: attention of one query, with and without the waiting time of its row."""

from __future__ import annotations

from string import Template

EXAMPLE = Template('''"""Estimates attention of one query with AccelForge; softmax is element-wise or waits for its row.

    pip install accelforge
    python attention.py [KEYS]
"""

import sys
from pathlib import Path

import accelforge

UNITS = (
$units)


def estimate(unit, keys, waits):
    """Return the seconds of each operation, keyed by the tensor that it computes, and the energy of the unit in J."""
    values = {"unit": unit, "keys": keys, "waits": waits}
    attention = Path(__file__).parent / "attention.yaml"
    result = accelforge.Spec.from_yaml(attention, jinja_parse_data=values).evaluate_mapping()
    return result.latency(per_einsum=True), result.energy(per_component=True)["Softmax"]


def main():
    keys = int(sys.argv[1]) if len(sys.argv) > 1 else $keys
    if not 1 <= keys <= $keys:
        sys.exit(f"the units were exported for rows of 1 to $keys keys, not {keys}; use a longer --context")
    for unit in UNITS:
        for waits in (False, True):
            seconds, joules = estimate(unit, keys, waits)
            print(
                f"{unit}, {keys} keys, {'a row that waits' if waits else 'element-wise'}: "
                f"softmax {1e6 * seconds['weights']:.3f} us, attention {1e6 * sum(seconds.values()):.3f} us, "
                f"energy of the unit {1e9 * joules:.4g} nJ"
            )


if __name__ == "__main__":
    main()
''')
"""Placeholders: `units`, one per line, and `keys`."""

SYSTEM = Template("""# Attention of one query on the keys of one head, in an engine with its share of the
# memory bandwidth. Multipliers and buffers are modelled without energy.
arch:
  nodes:
  - !Memory
    name: DRAM
    size: inf
    leak_power: 0
    area: 0
    tensors: {keep: ~Intermediates, may_keep: ~Intermediates}
    actions:
    - {name: read, energy: $joules_per_bit, throughput: $bits_per_second}
    - {name: write, energy: $joules_per_bit, throughput: $bits_per_second}
  - !Memory
    name: Buffer
    size: inf
    leak_power: 0
    area: 0
    tensors: {keep: All}
    actions:
    - {name: read, energy: 0, throughput: inf}
    - {name: write, energy: 0, throughput: inf}
  - !Compute
    name: Softmax
    component_class: {{unit}}
    extra_attributes_for_component_model: {length: {{keys}}, rows: 1, waits: {{waits}}}
    enabled: len(All) == 2
    actions:
    - {name: compute}
  - !Compute
    name: Multipliers
    leak_power: 0
    area: 0
    enabled: len(All) == 3
    actions:
    - {name: compute, energy: 0, throughput: $multiplications_per_second}

workload:
  rank_sizes: {QUERY: 1, KEY: {{keys}}, CHANNEL: $channels}
  bits_per_value: {All: 8}
  einsums:
  - "scores[query, key] = queries[query, channel] * keys[key, channel]"
  - "weights[query, key] = scores[query, key]"
  - "outputs[query, channel] = weights[query, key] * values[key, channel]"

mapping:
  nodes:
  - !Storage {tensors: [queries, keys, values, outputs], component: DRAM}
  - !Storage {tensors: [scores, weights], component: Buffer}
  - !Sequential
    nodes:
    - !Nested
      nodes:
      - !Storage {tensors: [queries, keys], component: Buffer}
      - !Temporal {rank_variable: query, tile_shape: 1}
      - !Temporal {rank_variable: key, tile_shape: 1}
      - !Temporal {rank_variable: channel, tile_shape: 1}
      - !Compute {einsum: scores, component: Multipliers}
    - !Nested
      nodes:
      - !Temporal {rank_variable: query, tile_shape: 1}
      - !Temporal {rank_variable: key, tile_shape: 1}
      - !Compute {einsum: weights, component: Softmax}
    - !Nested
      nodes:
      - !Storage {tensors: [values, outputs], component: Buffer}
      - !Temporal {rank_variable: query, tile_shape: 1}
      - !Temporal {rank_variable: key, tile_shape: 1}
      - !Temporal {rank_variable: channel, tile_shape: 1}
      - !Compute {einsum: outputs, component: Multipliers}
""")
"""Architecture, workload and mapping; the example fills in `unit`, `keys` and `waits`."""
