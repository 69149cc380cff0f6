"""`MLLMEmbedder`: the library's front door. Items in, unit vectors out."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from .checkpoint import Settings, fingerprint, read_object, read_settings, save
from .devices import device_for, dtype_for
from .errors import ConfigError, DataError, ModelError
from .families import Family, family_of
from .lora import load_adapter
from .model import EmbeddingModel
from .processing import ItemProcessor
from .prompts import PROMPT_SETS, PromptSet
from .quantization import cure, full_precision, load_options, quantization_of
from .types import Item, as_item

AHEAD = 2


class MLLMEmbedder:
    """A multimodal LLM that embeds pictures, texts, and pictures with an instruction into one space."""

    def __init__(self, model: EmbeddingModel, processor: Any, settings: Settings):
        self.model, self.processor, self.settings = model.eval(), processor, settings
        self.items = ItemProcessor(processor, settings.prompts)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        adapter: str | os.PathLike[str] | None = None,
        dtype: str | torch.dtype = "auto",
        quantization: str | None = None,
        device: str | torch.device | None = None,
        prompts: PromptSet | None = None,
        revision: str | None = None,
    ) -> MLLMEmbedder:
        """Load an embedder.

        Args:
            model: folder or hub id of an image-text model; a folder that `save_pretrained` wrote, adapter folders
                included (their base is looked up where it was at training).
            adapter: folder of an adapter for `model`.
            dtype: "auto" keeps the checkpoint's (float32 on a CPU without bfloat16 instructions, where half
                precision is many times slower); or "float32", "bfloat16", a torch dtype.
            quantization: "nf4" or "int8" keep the language model's weights in 4 or 8 bits and compute in `dtype`.
            device: a torch device; the GPU by default where there is one.
            prompts: prompt set; by default the saved one, InstructCIR's for a model that has none.
            revision: commit, tag or branch of a hub id.

        Raises ModelError for a path that is no model, an adapter that does not fit or belongs to another base.
        """
        if adapter is None and (Path(model) / "adapter_config.json").is_file():
            model, adapter = _base_of(model), model
        name, own = os.fspath(model), read_settings(adapter or model)
        if adapter is not None and own is None:
            raise ModelError(f"{os.fspath(adapter)} is not an adapter folder of mllm_embed: it has no mllm_embed.json")
        place = device_for(device)
        backbone, processor = _load(name, dtype_for(dtype, place), revision, quantization, place)
        base = fingerprint(name, getattr(backbone.config, "_commit_hash", None))
        if own and own.base_fingerprint and own.base_fingerprint != base:
            raise ModelError(
                f"the adapter in {os.fspath(adapter)} was trained on another base than {name} ({own.base})"
            )
        embedding = EmbeddingModel(backbone, family_of(backbone.config))
        if adapter is not None:
            load_adapter(embedding, adapter)
            embedding.to(backbone.dtype)
        embedding.to(place)
        prompts = prompts or (own.prompts if own else PROMPT_SETS["instructcir"])
        return cls(embedding, processor, Settings(prompts, name, base))

    @property
    def prompts(self) -> PromptSet:
        return self.settings.prompts

    def with_prompts(self, prompts: PromptSet) -> MLLMEmbedder:
        """The same model asked through other prompts; nothing is copied."""
        return MLLMEmbedder(self.model, self.processor, replace(self.settings, prompts=prompts))

    @property
    def family(self) -> Family:
        return self.model.family

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the base model computes in; pooled vectors are float32 all the same."""
        return self.model.base.dtype

    @property
    def quantization(self) -> str | None:
        """What the language model's weights are kept in, "nf4" or "int8"; None where they have `dtype`."""
        return quantization_of(self.model.base)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.model.base.config.get_text_config().hidden_size

    def encode(
        self,
        inputs: Sequence[Any],
        *,
        batch_size: int = 32,
        show_progress: bool | None = None,
        convert_to: Literal["numpy", "torch"] = "numpy",
    ) -> np.ndarray | torch.Tensor:
        """Embed anything that `types.as_item` reads: texts (str), pictures (Path, bytes, PIL), Query, Document, dicts.

        Equal inputs are computed once, and inputs of like length share a batch; neither changes a vector.

        Returns [N, D] float32, L2-normalised, in the order of the inputs; None for `show_progress` shows a bar on a
        terminal. Raises DataError for an input that cannot be embedded and ImageError for an unreadable picture.
        """
        if isinstance(inputs, (str, bytes, os.PathLike, dict)) or not hasattr(inputs, "__len__"):
            raise DataError("encode takes a list of inputs; put a single one in brackets")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
        if convert_to not in ("numpy", "torch"):
            raise ConfigError(f"convert_to is 'numpy' or 'torch', not {convert_to!r}")
        items = [as_item(value) for value in inputs]
        places: dict[Hashable, list[int]] = {}
        for index, item in enumerate(items):
            places.setdefault(_identity(item), []).append(index)
        groups = sorted(places.values(), key=lambda group: ItemProcessor.length(items[group[0]]), reverse=True)
        out = np.empty((len(items), self.dimension), np.float32)
        hide = None if show_progress is None else not show_progress
        with tqdm(total=len(items), desc="embedding", unit="input", disable=hide, mininterval=1) as bar:
            for part, batch in self._batches(items, groups, batch_size):
                vectors = self._forward(batch)
                for group, vector in zip(part, vectors, strict=True):
                    out[group] = vector
                bar.update(sum(map(len, part)))
        return torch.from_numpy(out) if convert_to == "torch" else out

    def encode_query(self, inputs: Sequence[Any], **options: Any) -> np.ndarray | torch.Tensor:
        """`encode` for queries: the word that sentence-transformers' users know."""
        return self.encode(inputs, **options)

    def encode_document(self, inputs: Sequence[Any], **options: Any) -> np.ndarray | torch.Tensor:
        """`encode` for the gallery."""
        return self.encode(inputs, **options)

    @staticmethod
    def similarity(
        queries: np.ndarray | torch.Tensor, documents: np.ndarray | torch.Tensor
    ) -> np.ndarray | torch.Tensor:
        """Cosines [Q, N] of two sets of vectors [Q, D] and [N, D] from `encode`."""
        return queries @ documents.T

    def save_pretrained(self, path: str | os.PathLike[str], merge: bool = False) -> None:
        """Write an adapter folder, or a whole model with `merge=True` or where there is no adapter.

        `from_pretrained` gives the same vectors from either. An earlier save there is replaced in one step; raises
        ModelError for a folder that holds anything else, or the adapter's own base.

        A whole model of a quantised embedder is made from its base read again unquantised, since merging into 4 or 8
        bits would round the adapter away: it takes the memory of that, and its vectors differ by what quantising cost.
        """
        if self.quantization and (merge or not self.model.adapted):
            return full_precision(self).save_pretrained(path, merge)
        save(os.fspath(path), self.model, self.processor, self.settings, merge)

    def _batches(
        self, items: list[Item], groups: list[list[int]], size: int
    ) -> Iterator[tuple[list[list[int]], dict[str, torch.Tensor]]]:
        """Batches of distinct items, read and tokenised in a thread while the model computes the ones before."""
        parts = [groups[start : start + size] for start in range(0, len(groups), size)]
        with ThreadPoolExecutor(1) as pool:
            jobs = [pool.submit(self.items, [items[g[0]] for g in part]) for part in parts[:AHEAD]]
            try:
                for number, part in enumerate(parts):
                    batch = jobs.pop(0).result()
                    if number + AHEAD < len(parts):
                        jobs.append(pool.submit(self.items, [items[g[0]] for g in parts[number + AHEAD]]))
                    yield part, batch
            finally:
                pool.shutdown(cancel_futures=True)

    @torch.inference_mode()
    def _forward(self, batch: dict[str, torch.Tensor]) -> np.ndarray:
        self.model.eval()
        vectors = self.model(**{name: tensor.to(self.device) for name, tensor in batch.items()})
        return vectors.cpu().numpy()


def _identity(item: Item) -> Hashable:
    """What equal inputs share; pictures in memory count as equal only when they are one object."""
    image = item.image
    if isinstance(image, (str, os.PathLike)):
        image = os.fspath(image)
    elif isinstance(image, Image.Image):
        image = id(image)
    return item.role, image, item.words


def _base_of(adapter: str | os.PathLike[str]) -> str:
    base = read_object(Path(adapter) / "adapter_config.json").get("base_model_name_or_path")
    if not base or (base.count("/") > 1 and not Path(base).is_dir()):
        raise ModelError(
            f"the base model {base} of {os.fspath(adapter)} is not there; give it: from_pretrained(BASE, adapter=...)"
        )
    return base


def _load(
    name: str, dtype: str | torch.dtype, revision: str | None, quantization: str | None, place: torch.device
) -> tuple[Any, Any]:
    """The backbone and the processor of a checked name, with every failure as one sentence."""
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoProcessor

    _check_name(name)
    try:
        options = load_options(quantization, name, dtype, place, revision)
        backbone, found = AutoModel.from_pretrained(
            name, dtype=dtype, revision=revision, output_loading_info=True, **options
        )
        processor = AutoProcessor.from_pretrained(name, revision=revision)
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        where = "" if Path(name).is_dir() else " (no such folder here, so it was taken for a hub id)"
        raise ModelError(f"cannot load the model {name}{where}: {str(error).strip().splitlines()[0]}") from error
    if found["missing_keys"]:
        raise ModelError(f"{name} lacks weights ({sorted(found['missing_keys'])[0]} and perhaps more); fetch it again")
    if not hasattr(processor, "tokenizer"):
        raise ModelError(f"{name} is no image-text model: its processor has no tokenizer beside its image processor")
    cure(backbone)
    return backbone, processor


def _check_name(name: str) -> None:
    if not name:
        raise ModelError("the model's name is empty; give a folder or a hub id")
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{name} is no model folder: it has no config.json")
    elif path.exists() or path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise ModelError(f"{name} is not a folder with a model; check the path")
