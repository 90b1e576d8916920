"""The largest sizes of an attention engine, in a module of its own that does not import Amaranth."""

LARGEST = {"rows": 256, "columns": 256, "channels": 1024, "max_keys": 1 << 16}
