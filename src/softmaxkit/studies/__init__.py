"""Joins the parts: models, methods and hardware, measured together. Every verb of the command calls one module here."""
