"""Rows from a folder in the documented format: pairs.jsonl, triplets.jsonl, texts.jsonl of `mllm_embed.DataFolder`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mllm_embed.data.folder import PAIRS, TEXTS, TRIPLETS, DataFolder, Pair, TextRow, Triplet
from mllm_embed.errors import DataError
from mllm_embed.types import Document

from .roles import RowContent, other_items, roles_of
from .row import TrainingRow

_FILES = {"pairs": PAIRS, "triplets": TRIPLETS, "texts": TEXTS}


def read_rows(
    folder: DataFolder, path: Path, kind: str, roles: Sequence[str], needed_by: str = "a term of the loss"
) -> list[TrainingRow]:
    """Return the rows of the folder at `path`, `kind` "pairs", "triplets" or "texts", each offering at least `roles`.

    Raises DataError when the folder has no such rows, or a row lacks a role; it says what these are `needed_by`.
    """
    make = {"pairs": _pairs, "triplets": _triplets, "texts": _texts}
    rows = make[kind](folder)
    if not rows:
        raise DataError(f"{path} has no {_FILES[kind]}, from which {kind} are read")
    for row in rows:
        for role in roles:
            if role not in row.roles:
                made = " (source_text and instruction)" if role == "composed_text" else ""
                raise DataError(
                    f"{path / _FILES[kind]}: row '{row.id}' has no {role}{made}, which {needed_by} needs; it offers "
                    f"{', '.join(row.roles)}"
                )
    return rows


def _pairs(folder: DataFolder) -> list[TrainingRow]:
    return [
        _row("pairs", entry, str(entry.image), RowContent(image=entry.image, caption=entry.caption))
        for entry in folder.pairs
    ]


def _triplets(folder: DataFolder) -> list[TrainingRow]:
    rows = []
    for entry in folder.triplets:
        content = RowContent(
            image=entry.image,
            instruction=entry.instruction,
            source_text=entry.source_text,
            target_image=entry.target_image,
            target_text=entry.target_text,
            avoid=entry.avoid,
        )
        row = _row("triplets", entry, str(entry.image), content)
        row = replace(row, hard_negatives=tuple(Document(image=image) for image in entry.negative_images))
        ways = [roles_of("triplets", replace(content, instruction=words)) for words in entry.paraphrases]
        rows.append(replace(row, others=other_items(row.roles, ways)) if ways else row)
    return rows


def _texts(folder: DataFolder) -> list[TrainingRow]:
    rows = []
    for entry in folder.texts:
        content = RowContent(
            source_text=entry.source_text,
            instruction=entry.instruction,
            target_text=entry.target_text,
            negative_text=entry.negative_text,
        )
        rows.append(_row("texts", entry, entry.source_text, content))
    return rows


def _row(kind: str, entry: Pair | Triplet | TextRow, group: str, content: RowContent) -> TrainingRow:
    return TrainingRow(entry.id, group, roles_of(kind, content), task=entry.task)
