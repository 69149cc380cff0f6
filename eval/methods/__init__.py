"""Query-time methods, one module each, found by being there: a module with a METHOD is a method."""

from __future__ import annotations

from functools import cache

from mllm_embed.named_function import in_package

from ..studies.method import Method


@cache
def methods() -> dict[str, Method]:
    """Return name -> method, by module name."""
    return {method.name: method for method in in_package(__name__, __path__, "METHOD")}
