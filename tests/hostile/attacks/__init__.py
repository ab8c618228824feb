"""Attacks, each by name. `row` is the row of the table in the issue that it reproduces; those
without one were found or thought of later."""

from attacks import said, shapes, store, wire, work  # noqa: F401
from attacks.core import ALL, Attack, Context

__all__ = ["ALL", "Attack", "Context"]
