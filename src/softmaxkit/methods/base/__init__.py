"""What every method answers: its spec and constants, its torch module, its hardware unit, its partial results."""
