"""MMEB-train (TIGER-Lab/MMEB-train): question and answer, each words, a picture, or both.

    parquet    qry, qry_image_path, pos_text, pos_image_path, neg_text, neg_image_path: texts, "" where there is none

A picture is marked in the words beside it by "<|image_1|>", and words begin with the instruction of their task (see
`mmeb_tasks`). The last two columns may be missing, or lists (mmE5).
"""

import re
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mllm_embed.errors import DataError

from ..row import RowTasks
from .format import TASKS, Format, Values, answer, answers
from .mmeb_tasks import CHANGES, PICTURE, QUERIES, TARGETS, Instructions, read_lines


def _words(value: Any) -> Any:
    """Return a text, or several, without the token that stands for the picture; None where nothing is left."""
    if isinstance(value, list):
        return [_words(text) for text in value]
    return (re.sub(r"<\|image_\d+\|>", " ", value).strip() or None) if isinstance(value, str) else value


def _sides(values: Values) -> Values:
    """Return the values with negatives that are a picture or words, and words beside a target picture as its caption.

    Such words often only say what to do with the picture: they answer with it, and never alone.
    """
    pictures, texts = _listed(values.get("negative_image")), _listed(values.get("negative_text"))
    # one negative a place: a list of words and one of pictures, the shorter filled up, go side by side
    texts += [None] * (len(pictures) - len(texts))
    pictures += [None] * (len(texts) - len(pictures))
    return {key: value for key, value in values.items() if key not in ("target_text", "target_image")} | {
        **answers(_targets(values)),
        "negative_image": [picture for picture in pictures if picture],
        "negative_text": [text for text, picture in zip(texts, pictures, strict=True) if text and not picture],
    }


def _targets(values: Values) -> list[Values]:
    """Return the columns of each right answer: of two lists each place is one, and one text goes with all pictures."""
    pictures, texts = (_listed(values.get(name)) for name in ("target_image", "target_text"))
    if len(pictures) > 1 and len(texts) not in (0, 1, len(pictures)):
        raise DataError(f"pos_image_path lists {len(pictures)} and pos_text {len(texts)}; give as many, or one")
    if len(pictures) == 1:
        pictures *= max(len(texts), 1)
    if len(texts) == 1:
        texts *= max(len(pictures), 1)
    targets = [answer(picture, text) for picture, text in zip_longest(pictures or [None], texts)]
    return [target for target in targets if any(target.values())] or targets[:1]


_IMPLIED = frozenset((*CHANGES, *PICTURE))


class _Instructed:
    """What splits the texts of a record; instructions in the file at `path` are looked for beside MMEB's own."""

    def __init__(self, path: Path | None):
        own = read_lines(path) if path else []
        self.queries, self.targets = Instructions([*QUERIES, *own]), Instructions([*TARGETS, *own])

    def __call__(self, values: Values) -> Values:
        """Return the values with the instructions of the query and of target pictures apart from the words."""
        asked = self.queries.split(values.get("instruction"))
        captions = values.get("target_caption")
        parts = [self.targets.split(text) for text in _listed(captions)]
        words = [part.words for part in parts]
        target = next((part.task for part in parts if part.task), None)
        if asked.task is None and target is None:
            return values
        return values | {
            "instruction": asked.words,
            "target_caption": words if isinstance(captions, list) else words[0] if words else None,
            TASKS: RowTasks((asked.task,) if asked.task else (), target, _IMPLIED),
        }


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value] if value else []


MMEB = Format(
    description="parquet of {qry, qry_image_path, pos_text, pos_image_path, neg_text, neg_image_path}",
    columns={
        "instruction": "qry",
        "image": "qry_image_path",
        "target_text": "pos_text",
        "target_image": "pos_image_path",
        "negative_text": "neg_text",
        "negative_image": "neg_image_path",
    },
    kinds=("triplets",),
    optional=frozenset(
        {"id", "instruction", "image", "target_text", "target_image", "negative_text", "negative_image"}
    ),
    suffixes=(".parquet", ".jsonl", ".json"),
    cells={"instruction": _words, "target_text": _words, "negative_text": _words},
    mixed=True,
    finish=_sides,
    instructed=_Instructed,
)
