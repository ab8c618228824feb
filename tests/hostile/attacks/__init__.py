"""Attacks, each by name. `row` is the number that the attack has in the list of what was first seen:
issue 14, "No request costs more than it may". Those without one were found or thought of later."""

from attacks import said, shapes, store, wire, work  # noqa: F401
from attacks.core import ALL, Attack, Context

__all__ = ["ALL", "Attack", "Context"]
