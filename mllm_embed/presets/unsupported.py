"""Published embedders that cannot be loaded, answered by name with the reason and with what comes nearest.

They are data, in unsupported.yaml, asked before anything is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..saving.card_results import markdown_table
from ..yaml_text import read_yaml

_FILE = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class Unsupported:
    """A model, or several of a kind, that cannot be loaded.

    Args:
        why: the reason, as part of a sentence.
        source: where that was read.
        names: hub ids.
        model_types: in a config.json.
        architectures: in a config.json: a class may be another one than that of its model_type.
        instead: what works and comes nearest.
        convert: the kind of `mllm-embed convert` that makes a model of it that loads.
    """

    why: str
    source: str
    names: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    instead: str = ""
    convert: str = ""

    def sentence(self, name: str) -> str:
        """Return what is said to whoever asks for the model `name`."""
        if self.convert:
            cure = f"write it anew with `mllm-embed convert {self.convert} {name} OUTPUT` and give OUTPUT"
        else:
            cure = f"the nearest that works: {self.instead}"
        return f"{name} cannot be loaded as it is: {self.why}; {cure}"

    @property
    def way(self) -> str:
        """The command that makes it load, or what works instead."""
        return f"`mllm-embed convert {self.convert} FOLDER OUTPUT`" if self.convert else self.instead


@lru_cache(maxsize=1)
def all_unsupported() -> tuple[Unsupported, ...]:
    """Return those that are known."""
    return tuple(_read(entry) for entry in read_yaml(_FILE, "table of models"))


def _read(entry: dict[str, Any]) -> Unsupported:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Unsupported(**values)


def check_name(name: str) -> None:
    """Raise ModelError for the hub id of a model that cannot be loaded; a folder of that name here is not meant."""
    if Path(name).is_dir():
        return
    found = next((one for one in all_unsupported() if name.lower() in map(str.lower, one.names)), None)
    if found is not None:
        raise ModelError(found.sentence(name))


def check_config(name: str, config: Mapping[str, Any]) -> None:
    """Raise ModelError where `config`, the config.json of the model `name`, is that of one that cannot be loaded."""
    kind, classes = config.get("model_type"), config.get("architectures")
    classes = classes if isinstance(classes, list) else []
    for one in all_unsupported():
        if kind in one.model_types or not set(one.architectures).isdisjoint(map(str, classes)):
            raise ModelError(one.sentence(name))


def listed() -> list[str]:
    """Return a few lines each, for a terminal."""
    lines: list[str] = []
    for one in all_unsupported():
        lines += ["", f"cannot be loaded as it is: {', '.join(one.names)}", f"    {one.why}", f"    instead: {one.way}"]
    return lines


def table() -> list[str]:
    """Return the lines of a table in Markdown."""
    rows = [["cannot be loaded as it is", "why", "instead"]]
    rows += [[f"`{'`, `'.join(one.names)}`", one.why, one.way] for one in all_unsupported()]
    return ["", *markdown_table(rows)]
