"""Measurements that combine models, methods and hardware. Every verb of the command calls one module here."""
