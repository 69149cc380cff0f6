"""Saved embedders: an adapter folder or a merged model, both with the settings that made its vectors."""

from __future__ import annotations

import copy
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ConfigError, ModelError
from ..files import atomic_folder, write_json
from ..model.embedding_model import EmbeddingModel
from ..model.heads.files import Heads, heads_identity, write_heads
from ..model.heads.projection import projection_folders
from ..model.loading import CONFIG_FILE
from ..model.lora import ADAPTER_WEIGHTS
from .card_header import CARD_FILE
from .model_card import ModelCardInfo, of_these_weights, write_card
from .sentence_transformers_files import write_sentence_files
from .settings import PROCESSOR_FILES, SETTINGS_FILE, Settings

_SAMPLE = 1 << 16
_PART = 1 << 24  # bytes


def model_fingerprint(folder: str | Path, revision: str | None = None) -> str:
    """Return what tells one base model from another: sha256 over the config and both ends of every tensor's bytes.

    Each tensor is sampled, since merges of two adapters differ only in the linear layers, which lie in the middle of a
    file. Of a hub id it is the commit that was loaded, as `revision`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return revision or ""
    digest = hashlib.sha256((folder / CONFIG_FILE).read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(path.name.encode())
            for piece in _samples(file):
                digest.update(piece)
    return digest.hexdigest()


def weights_digest(folder: str | Path, headed: bool = True) -> str | None:
    """Return what tells of any change in a base's weights, which `model_fingerprint` samples: sha256 over checksums of
    all their parts. None of a hub id, whose commit says it.

    Its heads, which lie in folders of their own, count too; not so where they are not used (`headed`), since an adapter
    brings its own.
    """

    def checksum(place: tuple[Path, int]) -> bytes:
        path, start = place
        with path.open("rb") as file:
            file.seek(start)
            return zlib.crc32(file.read(_PART)).to_bytes(4, "little")

    if not Path(folder).is_dir():
        return None
    paths = sorted(Path(folder).glob("*.safetensors"))
    places = [(path, start) for path in paths for start in range(0, path.stat().st_size, _PART)]
    with ThreadPoolExecutor() as pool:  # as fast as they are read: a core sums 2 GB a second
        digest = hashlib.sha256(b"".join(pool.map(checksum, places)))
    if headed:
        _add_heads(digest, Path(folder))
    return digest.hexdigest()


def adapter_fingerprint(folder: str | Path) -> str:
    """Return the sha256 of an adapter's tensors, its heads' included."""
    digest = hashlib.sha256((Path(folder) / ADAPTER_WEIGHTS).read_bytes())
    _add_heads(digest, Path(folder))
    return digest.hexdigest()


def _add_heads(digest: hashlib._Hash, folder: Path) -> None:
    for piece in heads_identity(folder):
        digest.update(piece)


def _samples(file: BinaryIO) -> Iterator[bytes]:
    """Yield the header of a safetensors file (its format: github.com/huggingface/safetensors), then tensors' ends."""
    length = int.from_bytes(file.read(8), "little")
    header = file.read(length)
    yield header
    entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
    for start, end in sorted(entry["data_offsets"] for entry in entries):
        for place in sorted({start, max(start, end - _SAMPLE)}):
            file.seek(8 + length + place)
            yield file.read(min(_SAMPLE, end - place))


def read_card(folder: str | Path) -> str | None:
    """Return the text of a folder's model card, None where it has none."""
    try:
        return (Path(folder) / CARD_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def save(
    path: str | Path,
    model: EmbeddingModel,
    processor: Any,
    settings: Settings,
    merge: bool,
    card: ModelCardInfo | Mapping[str, Any] | None = None,
) -> None:
    """Write an adapter folder, or with `merge` (or without an adapter) a whole model, in one step.

    A merged model is a stock Hugging Face folder: AutoModel and AutoProcessor load it. `card` is what the model card
    says beyond the files. Raises ModelError, and writes nothing, where that would replace a file, a folder that holds
    something else, or the adapter's own base; ConfigError for a whole model that needs a head of its own.
    """
    info, base = ModelCardInfo.of(card), settings.base
    public = not settings.base_is_folder
    old = of_these_weights(settings.card, model.adapted)
    as_adapter = model.adapted and not merge
    if not as_adapter and not model.speaks_by_embeddings:
        _check_no_head(settings)
    check_target(Path(path), Path(base) if as_adapter and base else None)
    with atomic_folder(path) as folder, _stock_config(model):
        if as_adapter:
            write_adapter(folder, model.backbone, base)
        else:
            _write_whole(folder, model.backbone, model.adapted)
            settings = replace(settings, base=None, base_fingerprint=None)
        write_processor(folder, processor, settings)
        words = model.lexical_head if settings.lexical else None
        write_heads(folder, Heads(model.projection, model.latent_attention, model.token_learner, words))
        stock = model.latent_attention is None and model.token_learner is None
        heads = projection_folders(model.projection), stock
        write_sentence_files(folder, processor, model.family, settings, model.states_width, *heads)
        write_card(folder, info, base=base, public=public, old=old)


def _check_no_head(settings: Settings) -> None:
    """Raise ConfigError for the settings of a whole model that would be saved without a head that it needs."""
    needs = {
        "by which this one thinks: save the adapter, or load the model with thoughts=0": settings.thoughts,
        "which makes this one's lexical vectors: save the adapter, or with_lexical(0)": settings.lexical,
    }
    found = next((what for what, needed in needs.items() if needed), None)
    if found:
        raise ConfigError(f"a whole model is saved without its head, {found}")


def write_processor(folder: Path, processor: Any, settings: Settings) -> None:
    """Write a processor, and the settings, which name its files."""
    before = set(folder.iterdir())
    processor.save_pretrained(folder)
    write_settings(folder, settings, sorted(path.name for path in set(folder.iterdir()) - before if path.is_file()))


def write_settings(folder: Path, settings: Settings, files: list[str]) -> None:
    """Write the settings of a saved folder, and the names of the processor's files in it."""
    write_json(folder / SETTINGS_FILE, settings.to_dict() | {PROCESSOR_FILES: files})


def write_adapter(folder: Path, backbone: Any, base: str | None) -> None:
    """Write a backbone's adapter, with the name of its base."""
    for config in backbone.peft_config.values():
        config.base_model_name_or_path = base
    # no LoRA is on the embeddings; peft's "auto" would ask the hub for the base's config to find that out
    backbone.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / CARD_FILE).unlink()  # peft's, with headings to be filled in


def _write_whole(folder: Path, backbone: Any, adapted: bool) -> None:
    whole = copy.deepcopy(backbone).merge_and_unload() if adapted else backbone  # the embedder keeps its adapter
    whole.save_pretrained(folder)


@contextmanager
def _stock_config(model: EmbeddingModel) -> Iterator[None]:
    """Take `is_causal` out of the config while it is saved.

    Stock attention layers read it in part, and would look both ways by halves.
    """
    base: Any = model.base
    config = base.config.get_text_config()
    flag = vars(config).pop("is_causal", None)
    try:
        yield
    finally:
        if flag is not None:
            config.is_causal = flag


def check_target(path: Path, base: Path | None = None, settings: str = SETTINGS_FILE) -> None:
    """Raise ModelError unless `path` is free, or a folder that an earlier save wrote: saving replaces it whole.

    `base` is a folder that may not be replaced either; `settings` names the file that an earlier save left.
    """
    if path.exists() and not path.is_dir():
        raise ModelError(f"{path} is a file; give the name of a folder to save to")
    if path.is_dir() and any(path.iterdir()) and not (path / settings).is_file():
        raise ModelError(f"{path} holds other files, which saving would remove; give a new or empty folder")
    if base is not None and path.resolve() == base.resolve():
        raise ModelError(f"{path} is the base of this adapter, which saving would remove; give another folder")
