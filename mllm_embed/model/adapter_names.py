"""Where the tensors of an adapter go, whatever classes it was trained around: names differ between them and versions.

An adapter of peft names the modules of the model that it was trained on. transformers moved them: the language model of
Qwen2-VL was `model.layers` up to 4.51, is `model.language_model.layers` since, and `language_model.layers` in the base
model without a head that is used here. peft itself leaves out what it cannot place, and goes on.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ..errors import ModelError

PREFIX = "base_model.model."
# what peft puts behind the name of a module
_PART = re.compile(r"\.(lora_(?:embedding_)?[A-Za-z_]+)(\.weight|\.bias)?$|\.(weight|bias)$")
_OUTPUT = re.compile(r"(^|\.)lm_head$")  # makes words of the last states, of which vectors are made without it
_TOWER = r"^(?:model\.)?(vision_tower|image_tower)\.vision_model\."
# Layouts, of which the first that places every tensor holds: pattern -> what stands in its place. Of a layout the first
# pattern that a name begins with counts, as in the key_mapping of peft.
LAYOUTS: tuple[dict[str, str], ...] = (
    {},
    {_TOWER: r"\1."},  # the base model, its tower of before transformers 5
    {_TOWER: r"\1.", r"^model\.": ""},  # with a head, since 4.52
    {r"^model\.(?!visual\.|language_model\.)": "language_model.", r"^model\.": ""},  # Qwen2-VL with a head, up to 4.51
    {_TOWER: r"\1.", r"^language_model\.model\.": "language_model."},  # LLaVA and its kin with a head, up to 4.51
    {r"^thinker\.model\.(?!language_model\.)": "language_model.", r"^thinker\.(?:model\.)?": ""},  # Qwen2.5-Omni
)


class Placed(NamedTuple):
    """How an adapter's tensors are placed on a model.

    Args:
        layout: one of LAYOUTS.
        names: the names of its tensors -> those that they have on this model.
        modules: those of this model that have a low-rank update in the file, by their names.
    """

    layout: Mapping[str, str]
    names: dict[str, str]
    modules: list[str]


def place(names: Iterable[str], backbone: nn.Module, path: str | Path) -> Placed:
    """Return where the tensors of the adapter in folder `path` go.

    Args:
        names: the keys of its file.
        backbone: the base model, without an adapter.
        path: for messages.

    Warns of tensors of the output layer, which decides no vector. Raises ModelError where no layout places them all.
    """
    modules = {name for name, _ in backbone.named_modules()}
    modules |= {name for name, _ in backbone.named_parameters()}  # those with names of their own, as of Gemma 3
    outer, inner = _parted(names)
    layout = next((one for one in LAYOUTS if not _lost(inner, one, modules)), None)
    if layout is None:
        lost = min((_lost(inner, one, modules) for one in LAYOUTS), key=len)
        raise ModelError(
            f"the adapter in {path} does not fit this model, which has no {lost[0]}: it belongs to another base; give "
            "that one: --model BASE --adapter ADAPTER"
        )
    found = {name: renamed(name, layout) for name in inner}
    if len(set(found.values())) < len(found):
        raise ModelError(f"the adapter in {path} is damaged: two of its tensors belong to one place; save it again")
    if outer:
        warnings.warn(
            f"{len(outer)} tensors of the adapter in {path} are left out: they change the output layer, which no "
            "vector comes from",
            stacklevel=5,
        )
    return Placed(layout, found, sorted({_module_of(name) for name in found.values() if ".lora_" in name}))


def _parted(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the tensors of the output layer, and all others."""
    parts: tuple[list[str], list[str]] = ([], [])
    for name in names:
        parts[0 if _OUTPUT.search(_module_of(name)) else 1].append(name)
    return parts


def _lost(names: Iterable[str], layout: Mapping[str, str], modules: set[str]) -> list[str]:
    """Return the modules, as an adapter names them, that are not there by a layout."""
    return [_module_of(name) for name in names if _module_of(renamed(name, layout)) not in modules]


def renamed(name: str, layout: Mapping[str, str]) -> str:
    """Return the name of an adapter's tensor, or of a module of its base, in the base model that is used here."""
    start, bare = (PREFIX, name.removeprefix(PREFIX)) if name.startswith(PREFIX) else ("", name)
    for pattern, replacement in layout.items():
        changed, count = re.subn(pattern, replacement, bare)
        if count:
            return start + changed
    return name


def _module_of(name: str) -> str:
    """Return the module that a tensor of an adapter belongs to."""
    return _PART.sub("", name.removeprefix(PREFIX))


def fit_options(config: Any, placed: Placed, file: Path) -> None:
    """Change the options of an adapter, in place, so that peft finds the modules by their names here.

    Lists of last names, such as q_proj, hold for any layout. Raises ModelError for a rank or a scale of modules that
    are not there: theirs would be taken for that of all.
    """
    if not placed.layout:
        return
    whole = isinstance(config.target_modules, str) and config.target_modules != "all-linear"
    if whole or isinstance(config.exclude_modules, str):  # a pattern of whole names, which are others here
        config.target_modules, config.exclude_modules = set(placed.modules), None
    config.target_modules = _all_renamed(config.target_modules, placed)
    config.exclude_modules = _all_renamed(config.exclude_modules, placed)
    kept = [renamed(name, placed.layout) for name in config.modules_to_save or ()]
    config.modules_to_save = [name for name in kept if not _OUTPUT.search(name)] or None
    for option in ("rank_pattern", "alpha_pattern"):
        setattr(config, option, _pattern(getattr(config, option) or {}, placed, f"{option} in {file}"))


def _pattern(values: Mapping[str, Any], placed: Placed, where: str) -> dict[str, Any]:
    """Return the ranks or scales of modules by their names here. Raises ModelError, which says `where`, for a module
    that the adapter does not change."""
    found = {renamed(name, placed.layout): value for name, value in values.items()}
    lost = next((name for name in found if not _matches(name, placed.modules)), None)
    if lost is not None:
        raise ModelError(
            f"{where} speaks of {lost}, which is no module of this model that the adapter changes: its rank or scale "
            "would be lost; put the name in it that the module has here"
        )
    return found


def _all_renamed(names: Any, placed: Placed) -> Any:
    """Return a list of modules' names as they are here; anything else as it is."""
    return {renamed(name, placed.layout) for name in names} if isinstance(names, list | set) else names


def _matches(pattern: str, modules: Iterable[str]) -> bool:
    """Return whether a name in a pattern of ranks or scales is that of a module, as peft compares them."""
    try:
        return any(re.match(rf"(.*\.)?({pattern})$", module) for module in modules)
    except re.error:
        return False
