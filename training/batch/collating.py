"""What every collator does around its own work: an error travels in the place of the batch, out of a worker process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch.utils.data import get_worker_info

from mllm_embed.errors import MLLMEmbedError

from .examples import Example

_Batch = TypeVar("_Batch")


def collated(
    examples: Sequence[Example | MLLMEmbedError], collate: Callable[[list[Example]], _Batch]
) -> dict[str, _Batch | MLLMEmbedError]:
    """Return {"batch": what `collate` makes of examples}, or {"error": the error} where an example is one.

    Outside a worker process an error of `collate` itself is raised; in one it goes the same way, since torch would wrap
    it in the worker's traceback.
    """
    read: list[Example] = []
    for example in examples:
        if isinstance(example, MLLMEmbedError):
            return {"error": example}
        read.append(example)
    try:
        return {"batch": collate(read)}
    except MLLMEmbedError as error:
        if get_worker_info() is None:
            raise
        return {"error": error}
