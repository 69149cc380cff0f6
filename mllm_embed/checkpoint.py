"""What a saved embedder is: an adapter folder or a merged model, both with the settings that made its vectors."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ModelError
from .files import atomic_folder, write_json
from .model import EmbeddingModel
from .prompts import PromptSet

SETTINGS_FILE = "mllm_embed.json"
FORMAT = 1


@dataclass(frozen=True)
class Settings:
    """Beside the weights: the prompts, and for an adapter which base it belongs to (name as given, fingerprint)."""

    prompts: PromptSet
    base: str | None = None
    base_fingerprint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        base = {"name": self.base, "fingerprint": self.base_fingerprint} if self.base else None
        return {"format": FORMAT, "pooling": "last", "normalize": True, "prompts": self.prompts.to_dict(), "base": base}


def read_settings(folder: str | Path) -> Settings | None:
    """The settings in a folder, or None where it has none. Raises ModelError for a file of a newer format."""
    path = Path(folder) / SETTINGS_FILE
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    if values.get("format") != FORMAT:
        raise ModelError(f"{path} has format {values.get('format')}, this version reads {FORMAT}; update mllm_embed")
    base = values["base"] or {}
    return Settings(PromptSet.from_dict(values["prompts"]), base.get("name"), base.get("fingerprint"))


def fingerprint(folder: str | Path, revision: str | None = None) -> str:
    """Tells one base model from another: sha256 over the config and the header and ends of each safetensors file.

    Of a hub id it is the commit that was loaded, as `revision`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return revision or ""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(f"{path.name} {path.stat().st_size}".encode() + file.read(1 << 20))
            file.seek(max(0, path.stat().st_size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()


def save(path: str | Path, model: EmbeddingModel, processor: Any, settings: Settings, merge: bool) -> None:
    """Write an adapter folder, or with `merge` (or without an adapter) a whole model, in one step.

    A merged model is a stock Hugging Face folder: AutoModel and AutoProcessor load it.
    """
    adapted = hasattr(model.backbone, "peft_config")
    with atomic_folder(path) as folder:
        if adapted and not merge:
            for config in model.backbone.peft_config.values():
                config.base_model_name_or_path = settings.base
            model.backbone.save_pretrained(folder, safe_serialization=True)
            (folder / "README.md").unlink(missing_ok=True)
        else:
            whole = copy.deepcopy(model.backbone).merge_and_unload() if adapted else model.backbone
            whole.save_pretrained(folder)
            settings = Settings(settings.prompts)
        processor.save_pretrained(folder)
        write_json(folder / SETTINGS_FILE, settings.to_dict())
