"""Which layers of a model an adapter changes: linear ones of the language model and of the vision tower, by name.

A pattern is the end of a layer's name (`q_proj`, `mlp.down_proj`), or a regular expression of it
(`layers\\.[0-7]\\..*`), as in the patterns of peft.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from ...errors import ConfigError, ModelError, did_you_mean
from ..embedding_model import is_part
from ..families import Family

_HEAD = "lm_head"  # makes words of the last states, of which vectors are made without it
_LAYER = re.compile(r"(.*?)\.([0-9]+)\.(.*)")


def target_pattern(
    backbone: nn.Module, family: Family, targets: Sequence[str] | None, vision: bool | Sequence[str]
) -> str:
    """Return a pattern, as peft takes it, of the whole names of the layers that get an update.

    Args:
        backbone: the base model, without an adapter.
        family: its record.
        targets: patterns of the language model's linear layers; None for all.
        vision: patterns of the vision tower's, or whether all of them do.

    Raises ModelError where there is no such layer, ConfigError for a pattern that fits none.
    """
    language = _language_layers(backbone, family)
    if targets is None and not vision:
        return _all_of(language, family)
    chosen = language if targets is None else _fitting(targets, language, "targets", "of the language model")
    if vision:
        tower = _tower_layers(backbone, family)
        if isinstance(vision, bool):
            chosen += tower
        else:
            chosen += _fitting(vision, tower, "vision", "of the vision tower")
    return _pattern_of(chosen)


def check_patterns(backbone: nn.Module, targets: str, options: Mapping[str, Iterable[str]]) -> None:
    """Raise ConfigError, by the option's name, for a pattern that fits none of the layers that get an update."""
    names = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    chosen = [name for name in names if re.fullmatch(targets, name)]
    for option, patterns in options.items():
        _fitting(list(patterns), chosen, option, "that LoRA is put on")


def projector_parts(backbone: nn.Module, family: Family) -> list[str]:
    """Return the names, each the end of a whole one, by which peft finds the modules of a model's projector.

    Of a list of modules these are its entries: peft trains no list as such.
    """
    parts: dict[str, nn.Module] = {}
    for name, module in backbone.named_modules():
        last = name.rsplit(".", 1)[-1]
        if last in family.projector:
            parts[last] = module
    found = []
    for last in (name for name in family.projector if name in parts):
        module = parts[last]
        found += [f"{last}.{at}" for at in range(len(module))] if isinstance(module, nn.ModuleList) else [last]
    return found


def _language_layers(backbone: nn.Module, family: Family) -> list[str]:
    """Return the names of the language model's linear layers. Raises ModelError where there are none."""
    outside = (*family.vision, *family.projector, _HEAD)
    found = [name for name, module in _linear(backbone) if not is_part(name, outside)]
    if not found:
        raise ModelError("found no linear layer outside the vision tower to put LoRA on")
    return found


def _tower_layers(backbone: nn.Module, family: Family) -> list[str]:
    """Return the names of the linear layers that pictures go through on their way to the projector.

    Raises ModelError where there are none.
    """
    outside = (*family.projector, *family.beside_tower)
    inside = {name: module for name, module in backbone.named_modules() if is_part(name, family.vision)}
    unseen = _unseen_layers(backbone, inside)
    found = [
        name
        for name, module in _linear(backbone)
        if name in inside and not is_part(name, outside) and not name.startswith(unseen)
    ]
    if not found:
        raise ModelError("found no linear layer in the vision tower to put LoRA on; leave lora.vision out")
    return found


def _linear(backbone: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]


def _unseen_layers(backbone: nn.Module, tower: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """Return how the names of the tower's last layers begin, where features are taken from a layer before them."""
    config: Any = backbone.config
    taken = getattr(config, "vision_feature_layer", getattr(config, "vision_feature_layers", None))
    if taken is None:
        return ()
    count = config.vision_config.num_hidden_layers
    # of the states [0, count], 0 those before the first layer, negative ones counted from the end
    states = [state % (count + 1) for state in ([taken] if isinstance(taken, int) else taken)]
    stacks = [name for name, module in tower.items() if isinstance(module, nn.ModuleList) and len(module) == count]
    return tuple(f"{stack}.{at}." for stack in stacks for at in range(max(states), count))


def _all_of(names: Sequence[str], family: Family) -> str:
    """Return the pattern of all linear layers outside the vision tower."""
    last_names = sorted({name.rsplit(".", 1)[-1] for name in names})
    outside = map(re.escape, family.vision + family.projector)
    # a layer of the vision tower may have the same last name: what lies outside is shut out by its whole name
    return rf"(?!(.*\.)?({'|'.join(outside)})\.).*\.({'|'.join(last_names)})"


def _fitting(patterns: Sequence[str], names: Sequence[str], option: str, where: str) -> list[str]:
    """Return the names that one of the patterns fits. Raises ConfigError for one that is none, or fits no name."""
    found: dict[str, None] = {}
    for pattern in patterns:
        try:
            fits = [name for name in names if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", name)]
        except re.error as error:
            raise ConfigError(f"lora.{option}: '{pattern}' is no regular expression ({error}); mend it") from error
        if not fits:
            known = sorted({name.rsplit(".", 1)[-1] for name in names})
            cure = did_you_mean(pattern, known) or f"; their last names are {', '.join(known)}"
            raise ConfigError(f"lora.{option}: '{pattern}' fits no linear layer {where}{cure}")
        found |= dict.fromkeys(fits)
    return [name for name in names if name in found]


def _pattern_of(names: Sequence[str]) -> str:
    """Return a pattern of these names alone: layers of a stack that have the same parts stand together."""
    parts: dict[tuple[str, str], list[str]] = {}
    single = []
    for name in names:
        found = _LAYER.fullmatch(name)
        if found:
            parts.setdefault((found[1], found[2]), []).append(found[3])
        else:
            single.append(re.escape(name))
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (stack, at), inner in parts.items():
        alike.setdefault((stack, tuple(inner)), []).append(at)
    stacks = [
        rf"{re.escape(stack)}\.(?:{'|'.join(at)})\.(?:{'|'.join(map(re.escape, inner))})"
        for (stack, inner), at in alike.items()
    ]
    return rf"(?:.*\.)?(?:{'|'.join((*stacks, *single))})"
