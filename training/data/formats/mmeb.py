"""MMEB-train (TIGER-Lab/MMEB-train): question and answer, each words, a picture, or both."""

import re
from typing import Any

from .format import Format, Values


def _words(value: Any) -> Any:
    """The text without the token that stands for the picture; nothing left means no text."""
    if isinstance(value, list):
        return [_words(text) for text in value]
    return (re.sub(r"<\|image_\d+\|>", " ", value).strip() or None) if isinstance(value, str) else value


def _sides(values: Values) -> Values:
    """Words beside a picture often only say what to do with it: they answer with it, and never alone."""
    pictures, texts = _listed(values.get("negative_image")), _listed(values.get("negative_text"))
    texts += [None] * (len(pictures) - len(texts))
    pictures += [None] * (len(texts) - len(pictures))
    target = "target_caption" if values.get("target_image") else "target_text"
    return {key: value for key, value in values.items() if key != "target_text"} | {
        target: values.get("target_text"),
        "negative_image": [picture for picture in pictures if picture],
        "negative_text": [text for text, picture in zip(texts, pictures, strict=True) if text and not picture],
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
)
