"""Hardware flow of a unit: Verilog, simulation, verification, proofs, synthesis, timing, power, place and route."""
