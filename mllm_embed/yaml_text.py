"""The YAML of recipes, presets and prompts: plain values as YAML 1.2 reads them, of which none stands twice, holds
itself or explodes.

YAML 1.1, which PyYAML reads, takes 010 for 8, 1:30 for 90, 1e-3 for a text, and 2024-01-05 for a date.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from .errors import ConfigError, reason
from .text import half_character

MOST_BYTES = 2**16  # of a file; the longest that ship have 5 KB
_MOST_VALUES, _MOST_LEVELS, _MOST_LETTERS = 10_000, 30, 4_096
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_NUMBERS = {
    _INT: r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]{1,16}",
    _FLOAT: r"[-+]?(([0-9][0-9_]*\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf))|\.(nan|NaN)",
}


def _without_numbers_and_dates(resolvers: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return those of YAML 1.1's rules for what a bare word means that stay."""
    return [(tag, word) for tag, word in resolvers if tag not in (_INT, _FLOAT, "tag:yaml.org,2002:timestamp")]


class _Loader(yaml.SafeLoader):
    """A loader of plain data that says no to what a settings file never holds."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in its base
        letter: _without_numbers_and_dates(found) for letter, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str):
        super().__init__(text)
        self._levels = self._values = 0
        self._sizes: dict[int, int] = {}  # by node, with all that it refers to

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        self._check(event)
        before = self._values
        self._levels += 1
        node = super().compose_node(parent, index)
        self._levels -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                self._refuse(f"*{event.anchor} stands within what it refers to", event)
            self._values += self._sizes[id(node)]
        else:
            self._values += 1
            self._sizes[id(node)] = self._values - before
        return node

    def _check(self, event: Any) -> None:
        """Raise ConstructorError for an event that would be too much, or asks for a type of its own."""
        if self._levels >= _MOST_LEVELS:
            self._refuse(f"values stand more than {_MOST_LEVELS} levels deep", event)
        if self._values >= _MOST_VALUES:
            self._refuse(f"more than {_MOST_VALUES:,} values, those that aliases repeat among them", event)
        if getattr(event, "tag", None) not in (None, "!"):
            self._refuse(f"the tag {event.tag} is not taken here; write the plain value", event)
        letters = getattr(event, "value", "")
        if len(letters) > _MOST_LETTERS:
            self._refuse(f"a value of {len(letters):,} characters", event)
        if "\0" in letters:
            self._refuse("the character NUL, which no name and no path holds", event)
        if half_character(letters):
            self._refuse("half a character (a lone surrogate)", event)

    def _refuse(self, what: str, at: Any) -> None:
        raise ConstructorError(None, None, what, at.start_mark)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            line = key.start_mark.line + 1
            if name is None:
                self._refuse("a key is a name, no list and no keys of its own", key)
            if name in lines:
                self._refuse(f"key '{key.value}' stands twice, in line {lines[name]} and line {line}", key)
            lines[name] = line
        return super().construct_mapping(node, deep)

    def construct_number(self, node: Any) -> float:
        """Return a float, or the whole number that one like 1e3 is."""
        value = self.construct_yaml_float(node)
        whole = "." not in node.value and abs(value) < 2**53
        return int(value) if whole and value.is_integer() else value


for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list("-+0123456789."))
_Loader.add_constructor(_FLOAT, _Loader.construct_number)


def read_yaml(path: Path, kind: str) -> Any:
    """Return what a YAML file holds, of a `kind` that messages name. Raise ConfigError for one that cannot be read, or
    holds what no such file does."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{kind} {path} cannot be read: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{kind} {path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if len(content) > MOST_BYTES:
        raise ConfigError(
            f"{kind} {path} is larger than {MOST_BYTES // 2**10} KiB, which no {kind} is; give a YAML file"
        )
    return parsed(text, f"{kind} {path}")


def parsed(text: str, where: str) -> Any:
    """Return what YAML says. Raise ConfigError, which names `where` and the line, for what it must not say."""
    loader = _Loader("")
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {_reason(error)}") from error
    finally:
        loader.dispose()


def _reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"line {mark.line + 1}: {reason}" if mark else reason


class _Dumper(yaml.SafeDumper):
    """A dumper that shows the white space of a text as it is, in quotes."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, '"' if "\n" in text or text != text.strip() else None)


_Dumper.add_representer(str, _text)


def as_yaml(value: Any) -> str:
    """Return plain values as YAML that `parsed` reads as the same."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)
