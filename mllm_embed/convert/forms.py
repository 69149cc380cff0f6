"""Forms of weights under names of other code, and the stock class that takes them: what leads there is data.

A form is a YAML file beside this one, whose keys `Form` explains. The config that it makes is a tree of values, of
which an object with one of these keys stands for what is read:

    from: a key of the old config.json, a dot leading into an object within, or a list of keys of which the first holds;
        with `else` the value where none is there, which is told; with `of` another file
    rows, columns: a tensor, by its new name: the length of its first or second axis
    layers: what the names of a stack of layers begin with: how many there are
    token: a token of the tokenizer: its number
    pinpoints: the sizes of pictures as LLaVA-NeXT writes them, "(1x1),...,(2x2)" times `side` or width and height, as
        transformers does: height and width
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from ..yaml_text import read_yaml

FOLDER = Path(__file__).parent
_PAIRS = re.compile(r"[\[(]\s*(\d+)\s*[x,]\s*(\d+)\s*[\])]")


@dataclass(frozen=True)
class Form:
    """Weights of one kind of code.

    Args:
        title: what people call it.
        model_types: in the config.json of models of this form.
        source: where the names and the config are from.
        preset: the prompts and settings that go with it, a name of mllm_embed.presets.
        requires: key of the old config.json -> a pattern that its value must hold, for what the stock class computes in
            one way only.
        renames: pattern -> the new name, None to leave a tensor out; the first that a name matches counts.
        config: the new config.json.
        files: other files that are written, by name, each a tree as `config`.
        merged: the same, of which the rest of what such a file holds already is kept.
        defaults: files that are written where there are none.
        tokens: special tokens that are added where the tokenizer lacks them.
        cut_template: how many characters of what the tokenizer's chat template writes the authors' code cuts off
            before it goes to the model; None where it does not use the template.
        notes: what a user must know of the result.
    """

    title: str
    model_types: tuple[str, ...]
    source: str
    preset: str
    renames: dict[str, str | None]
    config: dict[str, Any]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    merged: dict[str, dict[str, Any]] = field(default_factory=dict)
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)
    requires: dict[str, str] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    cut_template: int | None = None
    notes: tuple[str, ...] = ()

    def check(self, name: str, config: Mapping[str, Any]) -> None:
        """Raise ModelError where a config.json, of the model `name`, is that of another form."""
        kind = config.get("model_type")
        if kind not in self.model_types:
            raise ModelError(f"{name} is no {self.title}: its model_type is {kind!r}, not {self.model_types[0]!r}")
        for key, pattern in self.requires.items():
            if not re.search(pattern, str(config.get(key))):
                raise ModelError(
                    f"{key} of {name} is {config.get(key)!r}, which the stock class does not compute; only models with "
                    f"{pattern.strip('^$')} are converted"
                )

    def new_name(self, name: str) -> str | None:
        """Return the name that a tensor gets, None where it is left out. Raises ModelError for one without a place."""
        for pattern, replacement in self.renames.items():
            if re.match(pattern, name):
                return None if replacement is None else re.sub(pattern, replacement, name, count=1)
        raise ModelError(f"{self.title} has no tensor {name}: these are the weights of another model, or a newer form")


def read_form(name: str) -> Form:
    """Return a form by its name."""
    read = read_yaml(FOLDER / f"{name}.yaml", "form")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in read.items()}
    return Form(**values)


class Reader:
    """Reads the values of a form's trees, and keeps account of those that stand for what no file says."""

    def __init__(self, config: Mapping[str, Any], shapes: Mapping[str, torch.Size], tokenizer: Any):
        """Read from an old config.json, the shapes of the new tensors, and the new tokenizer."""
        self.config, self.shapes, self.tokenizer = config, shapes, tokenizer
        self._taken: dict[str, dict[str, Any]] = {}  # why -> key -> the value that was taken

    @property
    def told(self) -> list[str]:
        """Which values stand for what config.json does not say, in lines."""
        return [f"config.json does not say {_listed(taken)}: {why}" for why, taken in self._taken.items()]

    def value(self, tree: Any, where: str = "") -> Any:
        """Return what a tree stands for; `where` is its key in the file that is made. Raises ModelError for a value
        that is not there."""
        if isinstance(tree, list):
            return [self.value(one, where) for one in tree]
        if not isinstance(tree, dict):
            return tree
        for kind in ("from", "rows", "columns", "layers", "token", "pinpoints"):
            if kind in tree:
                return getattr(self, f"_{kind}")(tree, where)
        return {key: self.value(one, f"{where}.{key}" if where else key) for key, one in tree.items()}

    def _from(self, tree: dict[str, Any], where: str) -> Any:
        keys = tree["from"] if isinstance(tree["from"], list) else [tree["from"]]
        for key in keys:
            value: Any = self.config
            for part in key.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            if value is not None:
                return value
        if "else" not in tree:
            raise ModelError(f"its config.json does not say {keys[0]}, which decides vectors; fetch the model again")
        value = self.value(tree["else"], where)
        self._taken.setdefault(tree.get("why", "as its classes have by default"), {})[keys[0]] = value
        return value

    def _rows(self, tree: dict[str, Any], where: str) -> int:
        return self._shape(tree["rows"])[0]

    def _columns(self, tree: dict[str, Any], where: str) -> int:
        return self._shape(tree["columns"])[1]

    def _shape(self, name: str) -> torch.Size:
        if name not in self.shapes or len(self.shapes[name]) < 2:
            raise ModelError(f"the weights lack {name}; fetch the model again")
        return self.shapes[name]

    def _layers(self, tree: dict[str, Any], where: str) -> int:
        start = f"{tree['layers']}."
        found = {name.removeprefix(start).partition(".")[0] for name in self.shapes if name.startswith(start)}
        if not found:
            raise ModelError(f"the weights lack {tree['layers']}; fetch the model again")
        return len(found)

    def _token(self, tree: dict[str, Any], where: str) -> int:
        number = self.tokenizer.get_vocab().get(tree["token"])
        if number is None:
            raise ModelError(f"the tokenizer has no token {tree['token']}, which stands for a picture; fetch it again")
        return number

    def _pinpoints(self, tree: dict[str, Any], where: str) -> list[list[int]]:
        value = self.value(tree["pinpoints"], where)
        pairs = [[int(wide), int(high)] for wide, high in _PAIRS.findall(str(value))]
        if not pairs:
            raise ModelError(
                f"{where} in its config.json is {value!r:.60}, not sizes of pictures; fetch the model again"
            )
        if "x" in str(value):  # from the first to the last, in tiles
            (wide, high), (widest, highest), side = pairs[0], pairs[-1], tree["side"]
            pairs = [[i * side, j * side] for i in range(wide, widest + 1) for j in range(high, highest + 1)]
        return [[high, wide] for wide, high in pairs]


def _listed(taken: Mapping[str, Any]) -> str:
    """Return keys and the values that are taken for them, in words."""
    return ", ".join(f"{key} ({value!r} is taken)" for key, value in taken.items())
