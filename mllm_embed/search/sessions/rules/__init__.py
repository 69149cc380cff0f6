"""Rules for carrying the past of a session, one module each, found by being there: a module with a RULE is one."""

from __future__ import annotations

from functools import cache

from ....errors import ConfigError, did_you_mean
from ....named_function import in_package
from ..turn import Rule


@cache
def rules() -> dict[str, Rule]:
    """Return name -> rule, by module name."""
    return {rule.name: rule for rule in in_package(__name__, __path__, "RULE")}


def rule_named(name: str) -> Rule:
    """Return the rule of that name. Raise ConfigError, with the names that there are, for another one."""
    known = rules()
    if name not in known:
        raise ConfigError(
            f"there is no rule '{name}' for carrying the past; there are {', '.join(known)}{did_you_mean(name, known)}"
        )
    return known[name]
