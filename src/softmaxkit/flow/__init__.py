"""From unit to figures: Verilog, simulation, verification, proofs, synthesis."""
