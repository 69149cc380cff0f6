"""What a saved embedder is: an adapter folder or a merged model, both with the settings that made its vectors."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ModelError
from ..files import atomic_folder, write_json
from ..inputs.prompts import PromptSet
from ..model.embedding_model import EmbeddingModel
from ..model.pooling import Pooling
from ..model.projection import read_projection, write_projection
from .model_card import CARD_FILE, ModelCardInfo, of_these_weights, write_card
from .sentence_transformers_files import saved_settings, write_sentence_files

SETTINGS_FILE = "mllm_embed.json"
FORMAT = 1
SAMPLE = 1 << 16


@dataclass(frozen=True)
class Settings:
    """Beside the weights: what makes a vector of hidden states, and for an adapter which base it belongs to.

    Args:
        prompts: the prompt set.
        pooling, bidirectional: as in `EmbeddingModel`.
        matryoshka: the lengths at which truncated vectors were trained.
        base, base_fingerprint: the base's name as given, and `model_fingerprint` of it; None for a whole model.
        card: the text of the model card that the weights came with; it is no part of the settings' file.
        target_space: what made the vectors that its queries are to find (`MLLMEmbedder.provenance` of a teacher); None
            for those that it makes itself. The file calls it "finds".
        adapter: sha256 of the adapter's tensors that were loaded, no part of the file either.
    """

    prompts: PromptSet
    pooling: Pooling = "last"
    bidirectional: bool = False
    matryoshka: tuple[int, ...] = ()
    base: str | None = None
    base_fingerprint: str | None = None
    target_space: dict[str, Any] | None = field(default=None, repr=False)
    card: str | None = field(default=None, repr=False, compare=False)
    adapter: str | None = field(default=None, repr=False, compare=False)

    @property
    def base_is_folder(self) -> bool:
        """Whether the base was read from a folder, by the length of its fingerprint: a commit's is shorter."""
        return len(self.base_fingerprint or "") == hashlib.sha256().digest_size * 2

    @property
    def base_revision(self) -> str | None:
        """The commit of a base that is a hub id; None for a folder, and where it is not known."""
        return None if self.base_is_folder else self.base_fingerprint or None

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT, "pooling": self.pooling, "bidirectional": self.bidirectional, "normalize": True,
            "matryoshka": list(self.matryoshka), "prompts": self.prompts.to_dict(),
            "base": {"name": self.base, "fingerprint": self.base_fingerprint} if self.base else None,
            **({"finds": self.target_space} if self.target_space else {}),
        }  # fmt: skip


def read_settings(folder: str | Path) -> Settings | None:
    """The settings in a folder, or None where it has none. Raises ModelError for a damaged file or a newer format."""
    path = Path(folder) / SETTINGS_FILE
    values = read_object(path) if path.is_file() else saved_settings(Path(folder))
    if values is None:
        return None
    if values.get("format") != FORMAT:
        raise ModelError(f"{path} has format {values.get('format')}, this version reads {FORMAT}; update mllm_embed")
    try:
        base = values["base"] or {}
        return Settings(
            PromptSet.from_dict(values["prompts"]), values["pooling"], values.get("bidirectional", False),
            tuple(values.get("matryoshka", ())), base.get("name"), base.get("fingerprint"),
            values.get("finds"),
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is damaged ({error}); save the model again") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelError when it holds anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ModelError(f"{path} is damaged ({error}); save the model again") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} is damaged (it holds no JSON object); save the model again")
    return values


def base_of(adapter: str | Path) -> tuple[str, str | None]:
    """Name and, of a hub id, commit of the base that an adapter was trained on; ModelError where it is not there."""
    base = read_object(Path(adapter) / "adapter_config.json").get("base_model_name_or_path")
    own = read_settings(adapter)
    folder = own is not None and own.base_is_folder
    if not base or ((folder or base.count("/") > 1) and not Path(base).is_dir()):
        raise ModelError(
            f"the base model {base} of {adapter} is not there; give it: from_pretrained(BASE, adapter=...)"
        )
    return base, None if own is None or Path(base).is_dir() else own.base_fingerprint or None


def model_fingerprint(folder: str | Path, revision: str | None = None) -> str:
    """Tells one base model from another: sha256 over the config and both ends of every tensor's bytes.

    Each tensor is sampled, since merges of two adapters differ only in the linear layers, which lie in the middle of a
    file. Of a hub id it is the commit that was loaded, as `revision`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return revision or ""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(path.name.encode())
            for piece in _samples(file):
                digest.update(piece)
    return digest.hexdigest()


def adapter_fingerprint(folder: str | Path) -> str:
    """sha256 of an adapter's tensors, its projection's included."""
    digest = hashlib.sha256((Path(folder) / "adapter_model.safetensors").read_bytes())
    projection = read_projection(Path(folder))
    if projection is not None:
        digest.update(projection.weight.numpy().tobytes())
    return digest.hexdigest()


def _samples(file: BinaryIO) -> Iterator[bytes]:
    """The header of a safetensors file (its format: github.com/huggingface/safetensors), then each tensor's ends."""
    length = int.from_bytes(file.read(8), "little")
    header = file.read(length)
    yield header
    entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
    for start, end in sorted(entry["data_offsets"] for entry in entries):
        for place in sorted({start, max(start, end - SAMPLE)}):
            file.seek(8 + length + place)
            yield file.read(min(SAMPLE, end - place))


def read_card(folder: str | Path) -> str | None:
    """The text of a folder's model card; None where it has none."""
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
    something else, or the adapter's own base.
    """
    info, base = ModelCardInfo.of(card), settings.base
    public = not settings.base_is_folder
    adapted, old = model.adapted, settings.card
    check_target(Path(path), Path(settings.base) if adapted and not merge and settings.base else None)
    with atomic_folder(path) as folder, _stock_config(model):
        if adapted and not merge:
            for config in model.backbone.peft_config.values():
                config.base_model_name_or_path = settings.base
            # no LoRA is on the embeddings; peft's "auto" would ask the hub for the base's config to find that out
            model.backbone.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
            (folder / CARD_FILE).unlink()  # peft's, with headings to be filled in
        else:
            whole = copy.deepcopy(model.backbone).merge_and_unload() if adapted else model.backbone
            whole.save_pretrained(folder)
            settings = replace(settings, base=None, base_fingerprint=None)
        processor.save_pretrained(folder)
        write_json(folder / SETTINGS_FILE, settings.to_dict())
        if model.projection is not None:
            write_projection(folder, model.projection)
        write_sentence_files(
            folder, processor, model.family, settings, model.states_width, model.projection is not None
        )
        write_card(folder, info, base=base, public=public, old=of_these_weights(old, adapted))


@contextmanager
def _stock_config(model: EmbeddingModel) -> Iterator[None]:
    """Without `is_causal` in the config: stock attention layers read it in part, and would look both ways by halves."""
    config = model.base.config.get_text_config()
    flag = vars(config).pop("is_causal", None)
    try:
        yield
    finally:
        if flag is not None:
            config.is_causal = flag


def check_target(path: Path, base: Path | None = None) -> None:
    """Saving replaces the whole folder, so only a folder that an earlier save wrote may be there."""
    if path.exists() and not path.is_dir():
        raise ModelError(f"{path} is a file; give the name of a folder to save to")
    if path.is_dir() and any(path.iterdir()) and not (path / SETTINGS_FILE).is_file():
        raise ModelError(f"{path} holds other files, which saving would remove; give a new or empty folder")
    if base is not None and path.resolve() == base.resolve():
        raise ModelError(f"{path} is the base of this adapter, which saving would remove; give another folder")
