"""Rows from a folder in the documented format (pairs.jsonl, triplets.jsonl, texts.jsonl)."""

from __future__ import annotations

from pathlib import Path

from mllm_embed.data.folder import DataFolder, Pair, TextRow, Triplet
from mllm_embed.errors import DataError
from mllm_embed.types import Document, Query

from .row import TrainingRow


def read_rows(folder: DataFolder, path: Path, kind: str, roles: list[str]) -> list[TrainingRow]:
    """The rows of the folder at `path`, `kind` "pairs", "triplets" or "texts", each offering at least `roles`.

    Raises DataError when the folder has no such rows, or a row lacks a role that the loss needs.
    """
    read = {"pairs": (_pair, folder.pairs), "triplets": (_triplet, folder.triplets), "texts": (_text, folder.texts)}
    make, entries = read[kind]
    rows = [make(entry) for entry in entries]
    if not rows:
        raise DataError(f"{path} has no {kind}.jsonl, which this stage reads")
    for row in rows:
        for role in roles:
            if role not in row.roles:
                made = " (source_text and instruction)" if role == "composed_text" else ""
                raise DataError(
                    f"{path / kind}.jsonl: row '{row.id}' has no {role}{made}, which a term of the loss needs"
                )
    return rows


def _pair(pair: Pair) -> TrainingRow:
    return TrainingRow(
        pair.id, str(pair.image), {"image": Document(image=pair.image), "caption": Document(text=pair.caption)}
    )


def _triplet(triplet: Triplet) -> TrainingRow:
    roles = {
        "composed": Query(image=triplet.image, instruction=triplet.instruction),
        "query": Query(image=triplet.image, instruction=triplet.instruction),
        "query_image": Document(image=triplet.image),
        "target": Document(image=triplet.target_image) if triplet.target_image else Document(text=triplet.target_text),
    }
    if triplet.target_image:
        roles["target_image"] = Document(image=triplet.target_image)
    if triplet.target_text:
        roles["target_text"] = Document(text=triplet.target_text)
    if triplet.target_image and triplet.target_text:
        roles["target_captioned"] = Document(image=triplet.target_image, text=triplet.target_text)
    if triplet.source_text:
        roles["source_text"] = Document(text=triplet.source_text)
        roles["composed_text"] = Query(text=triplet.source_text, instruction=triplet.instruction)
    return TrainingRow(triplet.id, str(triplet.image), roles)


def _text(entry: TextRow) -> TrainingRow:
    roles = {"source_text": Document(text=entry.source_text), "target_text": Document(text=entry.target_text)}
    if entry.instruction:
        roles["composed_text"] = Query(text=entry.source_text, instruction=entry.instruction)
    if entry.negative_text:
        roles["negative_text"] = Document(text=entry.negative_text)
    return TrainingRow(entry.id, entry.source_text, roles)
