"""Functions that are found by being there, a module each: what they are called, say and can be set is read off them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class NamedFunction:
    """A function with its source.

    Attributes:
        run: the function; its settings are its keyword-only arguments, whose defaults are theirs.
        source: paper, equation, or code that it follows.
    """

    run: Callable[..., Any]
    source: str

    @cached_property
    def name(self) -> str:
        """The function's name, in words."""
        return self.run.__name__.replace("_", " ")

    @property
    def about(self) -> str:
        """The first line of the function's docstring, its formula."""
        return (self.run.__doc__ or "").strip().splitlines()[0]

    @property
    def defaults(self) -> dict[str, float]:
        """The settings and their defaults."""
        return {
            name: parameter.default
            for name, parameter in inspect.signature(self.run).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }

    def check(self, settings: Iterable[str], called: str) -> None:
        """Raise ConfigError, naming what the function is `called`, for a setting that it has not got."""
        unknown = next((name for name in settings if name not in self.defaults), None)
        if unknown is not None:
            known = ", ".join(self.defaults) or "none"
            near = did_you_mean(unknown, self.defaults)
            raise ConfigError(f"{called} has no setting '{unknown}'; it has {known}{near}")


def in_package(name: str, path: Iterable[str], constant: str) -> list[Any]:
    """Return what each module of a package, of this name and path, calls `constant`; in the order of the modules."""
    modules = [importlib.import_module(f".{info.name}", name) for info in pkgutil.iter_modules(path)]
    return [getattr(module, constant) for module in modules]
