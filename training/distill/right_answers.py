"""What is known of right answers before a stage starts: looked for once, by all processes, and kept on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from mllm_embed.errors import DataError, ModelError
from mllm_embed.files import atomic_file, check_space

from ..batch.stage_data import StageRows
from ..data import TrainingRow
from ..data.rows import SourceRows
from ..distributed.gathering import agreed, gather_ragged, world
from ..false_negatives.keys import Asked, ItemKeys
from ..false_negatives.known import KnownAnswers, Relations, known_answers, readable
from ..false_negatives.near_twins import near_twins
from ..false_negatives.twins import Sharing, Survey, Twins
from ..recipe.checks import first_process
from ..recipe.stage import Stage
from .guide import items_of

RIGHT_FILE = "right_answers.safetensors"
MANY_ROWS = 1_000_000
IN_FILES = 8 << 30
"""Bytes of a source that are read beforehand for the pictures in it."""


@dataclass(frozen=True)
class RightAnswers:
    """What is known of a stage's right answers.

    Args:
        key: gives the key of an input, equal for twins.
        known: pairs of keys, of what asks and what is right for it; None where a batch tells it.
    """

    key: ItemKeys
    known: KnownAnswers | None


def right_answers(
    name: str, stage: Stage, rows: StageRows, asked: Asked, path: Path, device: torch.device
) -> RightAnswers:
    """Return what all rows of a stage tell, from the file at `path` where an earlier start of the run left it.

    Raises ModelError for a damaged file, DataError for a disk without room, or a file that this process cannot read.
    """
    if not stage.looks_at_all_rows:
        return RightAnswers(ItemKeys(asked), None)
    if agreed(path.is_file, device):
        return _read(path, asked)
    rank, count = world()
    sharing = Sharing(rank, count, lambda values: _gathered(values, device))
    relations, title = Relations.of(stage.terms), f"right answers of {name}"
    places = _places(name, stage, rows)
    if len(places) > MANY_ROWS and first_process():
        tqdm.write(
            f"{name}  looks at {len(places):,} rows for what is right, once for the run; known_answers: batch spares it"
        )
    with TemporaryFile() as file:
        survey = Survey(file)
        own = _noted(survey, stage, relations, readable(rows, places, sharing, title))
        known = known_answers(own, relations, ItemKeys(asked), sharing)
        twins = survey.twins(sharing)
        if stage.looks_at_pixels:
            twins = twins.joined(*near_twins(*survey.distinct(twins), sharing))
    key = ItemKeys(asked, twins)
    if len(twins):  # once more, now that it is known which pictures are one
        known = known_answers(readable(rows, places, sharing, title), relations, key, sharing)
    if first_process():
        _write(path, twins, known)
        _tell(name, twins, known)
    return RightAnswers(key, known)


def _gathered(values: np.ndarray, device: torch.device) -> np.ndarray:
    if world()[1] == 1:
        return values
    return torch.cat(gather_ragged(torch.from_numpy(values).to(device))).cpu().numpy()


def _places(name: str, stage: Stage, rows: StageRows) -> np.ndarray:
    """Return the rows [N] int64 that are looked at: all but those of large sources whose pictures lie in their files,
    and would all be read for it. A bank reads them anyway."""
    banked = any(term.uses_bank for term in stage.terms)
    starts = rows.mixed.starts.tolist()
    kept = [np.empty(0, np.int64)]
    for number, part in enumerate(rows.mixed.parts):
        size = 0 if banked else _bytes_within(rows.first_of(number), part)
        if size <= IN_FILES:
            kept.append(np.arange(starts[number], starts[number + 1]))
        elif first_process():
            tqdm.write(
                f"{name}  {part.source.path}: its pictures lie in {size / 2**30:,.0f} GiB of its own files, which are "
                "not read beforehand: what is right for a query is known there as far as the rows of a batch tell"
            )
    return np.concatenate(kept)


def _bytes_within(row: TrainingRow | None, part: SourceRows) -> int:
    """Return the bytes of a source's files where its pictures lie in them; 0 where they are files of their own."""
    items = () if row is None else (*row.roles.values(), *row.hard_negatives)
    within = any(isinstance(picture, bytes) for item in items for picture in item.images)
    return part.bytes_read() if within else 0


def _noted(survey: Survey, stage: Stage, relations: Relations, rows: Iterable[TrainingRow]) -> Iterator[TrainingRow]:
    """Yield the rows, and note the files of the pictures that the stage's terms use, that are right, or that its mining
    may find: as hard negatives those are compared with what is right, whatever their name."""
    for row in rows:
        mined = map(row.playing, stage.mined_roles[1:])
        items = chain(items_of(row, stage), *relations.answers(row), *mined)
        pictures = chain.from_iterable(item.images for item in items)
        names = (os.fspath(picture) for picture in pictures if isinstance(picture, (str, os.PathLike)))
        for name in dict.fromkeys(names):  # one picture plays several roles
            survey.add(name)
        yield row


def _read(path: Path, asked: Asked) -> RightAnswers:
    try:
        with safe_open(path, framework="np") as file:
            found = {name: file.get_tensor(name) for name in ("asked", "answers", "pictures", "groups")}
            several = json.loads(file.metadata()["several"])
    except OSError as error:
        raise DataError(f"{path} cannot be read here ({error}); start the same command again") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is damaged; remove {path.parent} to train the stage again") from error
    known = KnownAnswers(found["asked"], found["answers"], several)
    return RightAnswers(ItemKeys(asked, Twins(found["pictures"], found["groups"])), known)


def _write(path: Path, twins: Twins, known: KnownAnswers) -> None:
    arrays = {"asked": known.asked, "answers": known.answers, "pictures": twins.pictures, "groups": twins.groups}
    check_space(path, sum(array.nbytes for array in arrays.values()), "what is right for whom")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        save_file(arrays, temporary, {"several": str(known.several)})


def _tell(name: str, twins: Twins, known: KnownAnswers) -> None:
    parts = []
    if known.several:
        parts.append(f"{known.several:,} queries have more than one right answer")
    if len(twins):
        parts.append(f"{len(twins):,} pictures are {len(np.unique(twins.groups)):,} under several names")
    if parts:
        tqdm.write(f"{name}  {'; '.join(parts)}: none is a negative of what it is right for")
