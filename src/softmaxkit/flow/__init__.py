"""From unit to figures: Verilog out, verification, proofs."""
