"""An embedder as MTEB wants one: `mteb.evaluate(MTEBModel(embedder), tasks)`.

Written against mteb 2.26 (mteb/models/models_protocols.py, `EncoderProtocol`). A query of a picture and words is one
composed query here, so that both parts count; a document of both is a picture with its own text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_embed.encode.encoder import check_single
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.saving.hub import is_hub_id
from mllm_embed.types import Document, Item, Query, with_task

if TYPE_CHECKING:
    from mteb.models.model_meta import ModelMeta

    from mllm_embed.encode.embedder import MLLMEmbedder

_READ = ("text", "image")
_UNREAD = ("audio", "video")


class MTEBModel:
    """An `MLLMEmbedder` for MTEB. MTEB's own prompts are left out: the model asks through those of its training.

    Args:
        embedder: the model.
        name: under which MTEB files its results, OWNER/NAME; by default that of the model or an adapter's base.
        revision: tells results of one name apart; by default made from base, adapter, prompts, precision.
        instructions: give the model MTEB's instruction of a task as its own, where its prompts have a place for one.

    Raises ConfigError for `instructions` to a model whose prompts have no such place, and for a model with `jpeg_side`.
    """

    def __init__(
        self,
        embedder: MLLMEmbedder,
        name: str | None = None,
        revision: str | None = None,
        *,
        instructions: bool = False,
    ):
        check_single(embedder, "MTEB")
        prompts, side = embedder.prompts, embedder.settings.jpeg_side
        if side:  # which would be filed as its own, and be that of whole pictures
            raise ConfigError(
                f"MTEB hands pictures over decoded, which jpeg_side {side} cannot make smaller; load the model with "
                "jpeg_side=0"
            )
        if instructions and not any(prompts.prompt(slot).has_task for slot in prompts.slots):
            raise ConfigError(f"the prompts '{prompts.name}' have no place for MTEB's instructions; leave them out")
        self.embedder, self.instructions = embedder, instructions
        self._meta = _meta(embedder, name, revision, instructions)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """The name, revision and kind under which MTEB files results."""
        return self._meta

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        precision: str = "float32",
        **options: Any,
    ) -> np.ndarray:
        """Return vectors [N, D] float32 of a loader's batches, each a dict of equally long lists ("text", "image").

        Raises DataError for sound or film, and for an entry without words and picture; ConfigError for a precision.
        """
        if precision != "float32":
            raise ConfigError(f"precision '{precision}' is not offered to mteb; leave it out")
        if options:
            raise ConfigError(f"encode does not know {', '.join(options)}; it takes batch_size and show_progress_bar")
        side = prompt_type and str(getattr(prompt_type, "value", prompt_type))
        told = _instruction(task_metadata.prompt, side) if self.instructions else None
        vectors = []
        for batch in _shown(inputs, show_progress_bar):
            items = [self._told(item, told) for item in _items(batch, side == "query", task_metadata.name)]
            vectors.append(self.embedder.encode(items, batch_size=batch_size, show_progress=False))
        return np.concatenate(vectors) if vectors else np.empty((0, self.embedder.dimension), np.float32)

    def _told(self, item: Item, instruction: str | None) -> Item:
        """Return an item with an instruction, where the prompts have a place for it."""
        return with_task(item, instruction) if self.embedder.prompts.takes_task(item) else item

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return cosines [N, M] as a tensor; of two single vectors, [1, 1]."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return cosines [N] of the rows of two arrays [N, D], as a tensor."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def _instruction(prompt: str | Mapping[str, str] | None, side: str | None) -> str | None:
    """Return what a task of MTEB tells a side; one instruction for all is not the documents' of a search."""
    if isinstance(prompt, Mapping):
        return prompt.get(side) or None if side else None
    return None if side == "document" else prompt or None


def _items(batch: Mapping[str, Any], query: bool, task: str) -> Iterable[Item]:
    """Yield the entries of a batch; an empty text beside a picture is no text."""
    _check_kinds(batch, task)
    count = next(len(batch[kind]) for kind in _READ if kind in batch)
    nothing = [None] * count
    texts, images = batch.get("text", nothing), batch.get("image", nothing)
    for row, (text, image) in enumerate(zip(texts, images, strict=True)):
        words = _words(text)
        if words is None and image is None:
            where = f" (id {batch['id'][row]})" if "id" in batch else ""
            raise DataError(f"task {task} has an entry without words and picture{where}; leave it out")
        yield Query(image=image, instruction=words) if query else Document(image=image, text=words)


def _words(text: Any) -> str | None:
    return text if isinstance(text, str) and text.strip() else None


def _check_kinds(batch: Mapping[str, Any], task: str) -> None:
    """Raise DataError for sound or film, and for a batch without texts and images."""
    for kind in _UNREAD:
        if any(value is not None for value in batch.get(kind, [])):
            raise DataError(f"task {task} has {kind}, which this model cannot embed; choose tasks of text and images")
    if not any(kind in batch for kind in _READ):
        raise DataError(f"task {task} has neither texts nor images, but {', '.join(batch) or 'nothing'}")


def _shown(inputs: Iterable[Mapping[str, Any]], show: bool | None) -> Iterable[Mapping[str, Any]]:
    from tqdm import tqdm

    return tqdm(inputs, desc="embedding", disable=None if show is None else not show, mininterval=1)


def _meta(embedder: MLLMEmbedder, name: str | None, revision: str | None, instructions: bool) -> ModelMeta:
    """Return what MTEB files results by. A folder has no owner, so that one is put in front of its name."""
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    base = embedder.settings.base or "embedder"
    return ModelMeta.create_empty(
        overwrites={
            "name": name or (base if is_hub_id(base) else f"mllm_embed/{Path(base).resolve().name}"),
            "revision": revision or _weights_id(embedder, instructions),
            "embed_dim": embedder.dimension,
            "similarity_fn_name": ScoringFunction.COSINE,
            "framework": ["PyTorch", "Transformers"],
            "modalities": ["text", "image"],
            "use_instructions": True,
            "open_weights": True,
        }
    )


def _weights_id(embedder: MLLMEmbedder, instructions: bool) -> str:
    """Return a name by which two models differ where their vectors can differ: base, adapter, prompts, instructions,
    precision.

    MTEB answers from earlier results of the same name and revision, so that two adapters of a base must not share one.
    """
    made = [embedder.settings.to_dict(), str(embedder.dtype), embedder.quantization, embedder.dim]
    made += ["instructions"] if instructions else []
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode())
    if embedder.model.adapted:
        from peft import get_peft_model_state_dict

        for key, tensor in sorted(get_peft_model_state_dict(embedder.model.backbone).items()):
            digest.update(key.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
