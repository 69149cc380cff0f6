"""Settings of query-time methods, chosen on a validation set whose queries may not be those that are reported."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mllm_embed.errors import ConfigError, MLLMEmbedError
from mllm_embed.inputs.images import ContentKeys
from mllm_embed.types import Item

from ..scoring.suite import Suite, Task
from .method import Method

if TYPE_CHECKING:
    from .compare_methods import EmbeddedSuite

QueryKey = tuple[Any, ...]


def tuned_settings(
    validation: EmbeddedSuite, chosen: Mapping[str, Method], progress: Callable[[str], None]
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Return the best settings of every method that has a grid, and why others could not be tried, both by name."""
    settings: dict[str, dict[str, float]] = {}
    refused: dict[str, str] = {}
    for name, method in chosen.items():
        if not method.grid:
            continue
        progress(f"choosing {name} on {validation.suite.title}")
        try:
            settings[name] = best_settings(validation, method)
        except MLLMEmbedError as error:
            refused[name] = str(error)
    return settings, refused


def best_settings(validation: EmbeddedSuite, method: Method) -> dict[str, float]:
    """Return the settings of the method's grid with the best headline, the first of equal ones."""
    tried = [dict(zip(method.grid, values, strict=True)) for values in itertools.product(*method.grid.values())]
    whole = [{**method.defaults, **settings} for settings in tried]
    return max(whole, key=lambda settings: validation.value(validation.run(method, settings).result))


def check_apart(suite: Suite, other: Suite) -> None:
    """Raise ConfigError where two suites share a query: the same picture with the same words, or with the same target.

    The second is a query in other words, as the options of a benchmark make it.
    """
    known = set().union(*_query_keys(suite))
    shared = sum(not known.isdisjoint(keys) for keys in _query_keys(other))
    if shared:
        raise ConfigError(
            f"{other.title} shares {shared:,} queries with {suite.title}: settings chosen on what is reported "
            "would flatter it; give another set to --tune-on"
        )


def _query_keys(suite: Suite) -> list[set[QueryKey]]:
    """Return what tells each composed query: its picture with its words, and with each of its targets, by content."""
    contents = ContentKeys()
    return [keys for task in suite.tasks if task.composed for keys in _task_keys(task, contents)]


def _task_keys(task: Task, contents: ContentKeys) -> list[set[QueryKey]]:
    found = []
    for items, targets in zip(task.queries, task.views[0].targets, strict=True):
        # a gallery entry without a picture is told by its words
        right = [(_pictures(task.gallery[at], contents), task.gallery[at].words) for at in targets]
        keys: set[QueryKey] = set()
        for item in items:
            picture = _pictures(item, contents)
            keys |= {(picture, other) for other in (item.words, *right)}
        found.append(keys)
    return found


def _pictures(item: Item, contents: ContentKeys) -> tuple[str, ...]:
    """Return the keys of an item's pictures."""
    return tuple(map(contents.of, item.images))
