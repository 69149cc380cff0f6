"""Query-time methods, one module each, found by being there: a module with a METHOD is a method."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from ..studies.method import Method


@cache
def methods() -> dict[str, Method]:
    """Return name -> method, by module name."""
    modules = [importlib.import_module(f".{info.name}", __name__) for info in pkgutil.iter_modules(__path__)]
    return {module.METHOD.name: module.METHOD for module in modules}
