"""The largest sizes of an attention engine, for those who only check sizes: no Amaranth is loaded for them."""

LARGEST = {"rows": 256, "columns": 256, "channels": 1024, "max_keys": 1 << 16}
