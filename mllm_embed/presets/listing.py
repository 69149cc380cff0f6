"""Presets in words: a list for a terminal, tables for the guide, and all that is known of one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ..saving.card_results import markdown_table
from ..yaml_text import as_yaml
from .preset import Preset
from .rerankers.catalog import RerankPreset

_SAID_ELSEWHERE = ("format", "normalize", "matryoshka", "prompts", "base")
_FROM = {"source": "from the authors' code", "inferred": "inferred"}


def listed(presets: Sequence[Preset]) -> list[str]:
    """Return a few lines a preset, for a terminal."""
    lines: list[str] = []
    for preset in presets:
        lines.append(f"{preset.name}: {preset.title}; prompts {_FROM[preset.prompts_from]}; loads {preset.loads}")
        lines += [f"    {model.id}  {model.size}  {model.licence}" for model in preset.models]
        lines += [f"    differs: {fact}" for fact in preset.differs]
    return lines


def tables(presets: Sequence[Preset], kind: str = "preset") -> list[str]:
    """Return the lines of a table in Markdown, a preset a row; its first column is called by their `kind`."""
    rows = [[kind, "models", "licence", "loads", "prompts", "differs from the authors' code in"]]
    for preset in presets:
        models = ", ".join(f"`{model.id}`" for model in preset.models)
        licences = ", ".join(dict.fromkeys(model.licence for model in preset.models))
        sourced = _FROM[preset.prompts_from] + ("; uncertain in part" if preset.uncertain else "")
        differs = "; ".join(fact.rstrip(".") for fact in preset.differs) or "nothing known"
        rows.append([f"`{preset.name}`", models, licences, preset.loads, sourced, differs])
    return markdown_table(rows)


def described(preset: Preset) -> list[str]:
    """Return all that is known of a preset, the prompts and settings as YAML."""
    return _about(preset, {"prompts": preset.settings.prompts.to_dict()})


def described_reranker(preset: RerankPreset) -> list[str]:
    """Return all that is known of a re-ranker's preset, its prompt and settings as YAML."""
    return _about(preset.about, {"prompt": preset.settings.prompt.to_dict()})


def _about(preset: Preset, asked: dict[str, Any]) -> list[str]:
    said = {
        "models": [model.model_dump(exclude_none=True) for model in preset.models],
        **asked,
        "settings": {key: value for key, value in preset.settings.to_dict().items() if key not in _SAID_ELSEWHERE},
        "image_processor": dict(preset.image_processor),
        "benchmarks": {name: wording.model_dump(exclude_defaults=True) for name, wording in preset.benchmarks.items()},
    }
    given = {key: value for key, value in said.items() if value}
    about = as_yaml(json.loads(json.dumps(given)))
    head = f"{preset.name}: {preset.title} ({', '.join(preset.model_types)}), loads {preset.loads}"
    return [head, "", *about.rstrip().splitlines(), *_facts(preset)]


def _facts(preset: Preset) -> Iterator[str]:
    kinds = (
        ("uncertain", preset.uncertain), ("differs from the authors' code", preset.differs), ("sources", preset.sources)
    )  # fmt: skip
    for kind, facts in kinds:
        yield from (["", f"{kind}:"] if facts else [])
        yield from (f"  - {fact}" for fact in facts)
