"""Checkpoints that are whole or absent, whenever the process dies: written aside, sealed, renamed.

A seal is a file with the sha256 of every other file. What has none, or another content than it says, is no checkpoint;
the one before is then the last.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from mllm_embed.errors import DataError
from mllm_embed.files import disk_fails, why_not_written

from ..distributed.zero import whole_shape
from ..recipe.optimizers import state_bytes

SEAL = "seal.json"
CHECKPOINT = "checkpoint-"  # and the step: the name that transformers' Trainer gives
ASIDE = ".unfinished"
KEPT_CHECKPOINTS = 2
OVERHEAD = 2**20  # bytes beside the tensors: states of schedulers and random generators, JSON, a model card


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint, or None; a damaged one is named on stderr and passed over."""
    for path in reversed(_numbered(folder)):
        if is_whole(path):
            return path
        print(f"{path} is damaged; the run goes on from before it", file=sys.stderr)
    return None


def is_whole(checkpoint: Path) -> bool:
    """Return whether every file is there as it was sealed."""
    try:
        seal = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        return bool(seal) and all(_digest(checkpoint / name) == digest for name, digest in seal.items())
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def publish(written: Path, home: Path) -> None:
    """Seal a checkpoint that was written aside, give it its place in `home`, and drop all but the last there."""
    names = sorted(str(path.relative_to(written)) for path in written.rglob("*") if path.is_file())
    # The order is what makes a checkpoint whole or absent: contents, their seal, all of it on the disk, and only then
    # the rename. Whoever finds the folder in its place finds everything in it.
    seal = written / SEAL
    seal.write_text(json.dumps({name: _digest(written / name) for name in names}, indent=1), encoding="utf-8")
    for path in (*(written / name for name in names), seal, written):
        _to_disk(path)  # a machine that loses power keeps renames and contents in any order
    place = home / written.name
    if place.exists():  # a damaged one of the same step
        os.replace(place, written.with_name(f"{place.name}-damaged"))
    os.replace(written, place)
    _to_disk(home)
    for old in _numbered(home)[:-KEPT_CHECKPOINTS]:
        os.replace(old, home / ASIDE / f"{old.name}-old")  # at once: half an old checkpoint is none
    clear(home)


def clear(home: Path) -> None:
    """Remove what was being written, or removed, when a process died."""
    shutil.rmtree(home / ASIDE, ignore_errors=True)


def checkpoint_bytes(trainable: Iterable[Tensor], optimizer: str) -> int:
    """Return the bytes of a checkpoint: each trainable number in float32, what the recipe's optimiser keeps of it, and
    the rest."""
    shapes = [whole_shape(parameter) for parameter in trainable]
    return 4 * sum(map(math.prod, shapes)) + state_bytes(optimizer, shapes) + OVERHEAD


def adapter_bytes(trainable: Iterable[Tensor]) -> int:
    """Return the bytes of an adapter folder: each trainable number in float32, and the rest."""
    return 4 * sum(math.prod(whole_shape(parameter)) for parameter in trainable) + OVERHEAD


@contextmanager
def failing_disk(written: Path) -> Iterator[None]:
    """Turn what torch, safetensors and Python raise when a disk fails into a DataError, and remove what is there."""
    try:
        yield
    except BaseException as error:
        if not disk_fails(error):
            raise
        shutil.rmtree(written.parent, ignore_errors=True)
        raise DataError(
            f"cannot write {written.parent.parent / written.name} ({why_not_written(error, written)}); make room and "
            "start the same command again: it goes on from the checkpoint before"
        ) from error


def checkpoint_name(step: int) -> str:
    """Return the name of the folder with a step's checkpoint."""
    return f"{CHECKPOINT}{step}"


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint by its folder's name."""
    return int(checkpoint.name.removeprefix(CHECKPOINT))


def _numbered(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, whole or not, by their steps."""
    found = folder.glob(f"{CHECKPOINT}*")
    return sorted((path for path in found if path.name.removeprefix(CHECKPOINT).isdigit()), key=step_of)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
