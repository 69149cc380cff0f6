"""Rules for carrying the past of a session, one module each, found by being there: a module with a RULE is one."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from ....errors import ConfigError, did_you_mean
from ..turn import Rule


@cache
def rules() -> dict[str, Rule]:
    """Return name -> rule, by module name."""
    modules = [importlib.import_module(f".{info.name}", __name__) for info in pkgutil.iter_modules(__path__)]
    return {module.RULE.name: module.RULE for module in modules}


def rule_named(name: str) -> Rule:
    """Return the rule of that name. Raise ConfigError, with the names that there are, for another one."""
    known = rules()
    if name not in known:
        raise ConfigError(
            f"there is no rule '{name}' for carrying the past; there are {', '.join(known)}{did_you_mean(name, known)}"
        )
    return known[name]
