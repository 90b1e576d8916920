"""The methods, one folder each, with the same files in each: spec, golden, module, and what else a method has."""
