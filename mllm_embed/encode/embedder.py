"""`MLLMEmbedder`: the library's front door. Items in, unit vectors out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from tqdm import tqdm

from ..inputs.plain_values import items_of
from ..inputs.prompt_files import prompt_set
from ..inputs.prompts import PromptSet
from ..model.devices import device_for
from ..model.embedding_model import EmbeddingModel
from ..model.families import Family
from ..model.loading import load_model
from ..model.pooling import Pooling
from ..model.position_ids import Positions
from ..model.quantization import full_precision, quantization_of
from ..presets.preset import Preset
from ..saving.checkpoint import save
from ..saving.hub import check_base, push
from ..saving.identity import provenance_of
from ..saving.provenance import check_taught
from ..saving.settings import Settings
from ..thoughts.asking import ThinksFirst
from ..vectors.precision import Precision, check_dim, to_precision, truncate
from .execution import Encoded, check_call, embedding_bar, execute
from .mixins.lexical import EncodesWords
from .mixins.multi import EncodesMulti
from .mixins.query_document import QueryDocument
from .model_source import ModelSource, find_model, item_processor
from .planning import EncodingPlan, plan
from .prefetch import THREADS
from .suffixes import Suffixes

if TYPE_CHECKING:
    from ..saving.model_card import ModelCardInfo


class MLLMEmbedder(QueryDocument, ThinksFirst, EncodesMulti, EncodesWords):
    """A multimodal LLM that embeds pictures, texts, and pictures with an instruction into one space."""

    def __init__(
        self, model: EmbeddingModel, processor: Any, settings: Settings, dim: int | None = None,
        preset: Preset | None = None,
    ):  # fmt: skip
        """Wrap a model that is loaded already; `from_pretrained` loads one.

        Args:
            model: the embedding model; it is put into eval mode.
            processor: its family's Hugging Face processor, without a part for videos.
            settings: prompts, pooling, and the base and adapter that they belong to.
            dim: how many of each vector's first numbers to keep, normalised again; None for all.
            preset: of the published model that it is.
        """
        self.model, self.processor, self.settings, self.dim = model.eval(), processor, settings, dim
        self.preset = preset
        self.item_processor = item_processor(processor, settings, model.base.config, model.family)
        self.suffixes = Suffixes(self.item_processor)
        self._prepare_to_think()
        self._prepare_words()

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | ModelSource,
        *,
        adapter: str | os.PathLike[str] | None = None,
        dtype: str | torch.dtype = "auto",
        quantization: str | None = None,
        device: str | torch.device | None = None,
        preset: str | os.PathLike[str] | None = None,
        prompts: PromptSet | str | os.PathLike[str] | None = None,
        pooling: Pooling | None = None,
        bidirectional: bool | None = None,
        positions: Positions | None = None,
        dim: int | None = None,
        max_tokens: int | None = None,
        truncate: bool | None = None,
        jpeg_side: int | None = None,
        thoughts: int | None = None,
        revision: str | None = None,
    ) -> MLLMEmbedder:
        """Load an embedder.

        Args:
            model: folder or hub id of an image-text model, or of what `save_pretrained` or `push_to_hub` wrote,
                adapters included (their base is looked up where it was at training, then beside and above them); or
                what `find_model` found, in the place of adapter, revision and preset.
            adapter: folder or hub id of an adapter for `model`; tokenizer, chat template and image processor that were
                saved with it are used, not `model`'s.
            dtype: "auto" keeps the checkpoint's, or on a GPU what the authors of a published model compute in (float32
                on a CPU without bfloat16 instructions, where half precision is many times slower); or "float32",
                "bfloat16", a torch dtype.
            quantization: "nf4" or "int8" keep the language model's weights in 4 or 8 bits and compute in `dtype`.
            device: a torch device; the GPU by default where there is one.
            preset: name of a published embedder's preset (`mllm-embed presets` lists them), or a YAML or JSON file with
                one; by default that of the hub id, where there is one.
            prompts: prompt set, its name, or a YAML or JSON file with one; by default the saved one, that of the
                preset, or InstructCIR's for a model that has neither.
            pooling: "last" takes the last token's state, "mean" the mean over the picture's and the user's tokens,
                "multi" a vector for each of these (`encode_multi`); by default as saved, "last" where nothing is.
            bidirectional: let the language model's attention look ahead too; by default as saved, False otherwise.
            positions: "model" numbers tokens as the base does, "sequential" one after the other; by default as saved,
                "model" otherwise.
            dim: keep so many of each vector's first numbers, normalised again (matryoshka); by default all.
            max_tokens: the most tokens of an input, its prompt and pictures among them; by default as saved, or else as
                many as the model has positions.
            truncate: cut the words of a longer input, whose prompt and pictures stay whole; by default as saved, or
                else such an input cannot be embedded.
            jpeg_side: decode JPEG files, not PIL pictures, at 1/2, 1/4 or 1/8 of their size while both sides keep so
                many pixels or more: less time, and other vectors; 0 for whole; by default as saved, or else whole.
            thoughts: let the model write what a composed query looks for, in so many tokens at most, before it embeds
                it; 0 for not; by default as saved, or else not.
            revision: commit, tag or branch of a hub id.

        Raises ModelError for a path that is no model, an adapter that does not fit or belongs to another base;
        ConfigError for an option that does not exist or does not fit.
        """
        prompts = None if prompts is None else prompt_set(prompts)  # before weights are loaded, which takes long
        source = model if isinstance(model, ModelSource) else find_model(model, adapter, revision, preset)
        place = device_for(device)
        backbone = load_model(source.base, source.dtype(dtype, place), source.revision, quantization, place)
        settings = source.settings(prompts, pooling, bidirectional, positions, config=backbone.config)
        settings = settings.limited(max_tokens, truncate).reading(jpeg_side).thinking(thoughts)
        embedding = source.embedding_model(backbone, settings)
        processor = source.processor(embedding.base)
        embedding.to(place)
        check_dim(dim, embedding.width)
        return cls(embedding, processor, settings, dim, source.preset)

    def merge_adapter(self) -> MLLMEmbedder:
        """Fold the adapter into the weights, in place, for good: the same vectors for less work. Return itself.

        Nothing happens without an adapter, and to quantised weights, whose 4 or 8 bits would round it away. In float32
        no vector changes by more than 1e-5; in bfloat16 both ways round, and are as far from float32's vectors.
        """
        if self.model.adapted and not self.quantization:
            wrapped: Any = self.model.backbone
            self.model.backbone = wrapped.merge_and_unload()
        return self

    @property
    def prompts(self) -> PromptSet:
        """The prompts that the model is asked with, saved with it."""
        return self.settings.prompts

    def with_prompts(self, prompts: PromptSet | str | os.PathLike[str]) -> MLLMEmbedder:
        """Return the same model asked through other prompts, as of `from_pretrained`; nothing is copied."""
        return self.with_settings(replace(self.settings, prompts=prompt_set(prompts)))

    def with_settings(self, settings: Settings, processor: Any = None) -> MLLMEmbedder:
        """Return the same model by other settings, and perhaps through another processor; nothing is copied."""
        other = MLLMEmbedder(self.model, processor or self.processor, settings, self.dim, self.preset)
        other.thought_cache = self.thought_cache
        return other

    @property
    def family(self) -> Family:
        """The record of the model's family (families.py)."""
        return self.model.family

    @property
    def device(self) -> torch.device:
        """Where the weights lie and vectors are computed; what `encode` returns lies on the CPU."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type that the base model computes in; pooled vectors are float32 all the same."""
        return self.model.base.dtype

    @property
    def quantization(self) -> str | None:
        """The form in which the language model's weights are kept, "nf4" or "int8"; None where they have `dtype`."""
        return quantization_of(self.model.base)

    @property
    def provenance(self) -> dict[str, Any]:
        """A record that tells this embedder's vectors from others', as plain JSON: weights, how the adapter is used,
        tokenizer, chat template, image processor, prompts, pooling, number format.

        Its weights are those that were loaded: a change of them in memory does not show.
        """
        limit = self.item_processor.lengths.limit
        cut = limit.tokens if limit.truncate else None  # a limit that refuses changes no vector
        return provenance_of(
            self.settings, self.processor, cut=cut, shortened=not self.unit_length, dimension=self.dimension,
            quantization=self.quantization, dtype=str(self.dtype).removeprefix("torch."),
        )  # fmt: skip

    @property
    def target_space(self) -> dict[str, Any]:
        """The provenance of the vectors that its queries are compared with: its own, or for a distilled query encoder
        its teacher's."""
        return {**(self.settings.target_space or self.provenance), "dimension": self.dimension}

    @property
    def dimension(self) -> int:
        """Length of a vector: `dim`, or the model's width."""
        return self.dim or self.model.width

    @property
    def unit_length(self) -> bool:
        """Whether vectors have length 1."""
        return self.settings.renormalize or self.dimension == self.model.width

    @overload
    def encode(
        self, inputs: Sequence[Any], *, batch_size: int = ..., dim: int | None = ..., precision: Precision = ...,
        packed: bool = ..., show_progress: bool | None = ..., unreadable: dict[int, str] | None = ...,
        convert_to: Literal["numpy"] = ...,
    ) -> np.ndarray: ...  # fmt: skip

    @overload
    def encode(
        self, inputs: Sequence[Any], *, batch_size: int = ..., dim: int | None = ..., precision: Precision = ...,
        packed: bool = ..., show_progress: bool | None = ..., unreadable: dict[int, str] | None = ...,
        convert_to: Literal["torch"],
    ) -> torch.Tensor: ...  # fmt: skip

    def encode(
        self,
        inputs: Sequence[Any],
        *,
        batch_size: int = 32,
        dim: int | None = None,
        precision: Precision = "float32",
        packed: bool = False,
        show_progress: bool | None = None,
        unreadable: dict[int, str] | None = None,
        convert_to: Literal["numpy", "torch"] = "numpy",
    ) -> np.ndarray | torch.Tensor:
        """Embed anything that `types.as_item` reads: texts (str), pictures (Path, bytes, PIL), Query, Document, dicts.

        Equal inputs, pictures of one content among them, are computed once; inputs on one picture share the work on it;
        inputs of like length share a batch. In float32 nothing of that changes a vector by more than 1e-5, in half
        precision rounding does (2e-2 seen in bfloat16). `plan` says what it saves. What queries avoid is encoded too,
        each different text once, and taken from their vectors (vectors/avoiding.py).

        Args:
            inputs: what to embed.
            batch_size: how much is computed at once: so many inputs of 256 tokens, of shorter ones more,
                of longer ones fewer, and never more pictures.
            dim: as in `from_pretrained`, for this call.
            precision: "float32", "int8" or "binary" (also "ubinary"), as `precision.to_precision` lays them out.
            packed: compute short inputs in shared rows instead of a padded batch; the vectors are the same.
            show_progress: None shows a bar on a terminal.
            unreadable: a dict to fill with why inputs cannot be read, by their places in the list; their vectors are 0.
                Without it the first of them is an error.
            convert_to: "numpy" or "torch", a tensor on the CPU.

        Returns [N, D] in the order of the inputs, float32 and L2-normalised, or int8, or [N, ceil(D / 8)] uint8. Raises
        DataError for an input that cannot be embedded, ImageError for an unreadable picture, ConfigError for an option
        that does not fit, ModelError for a model that makes NaN of an input.
        """
        items = items_of(inputs)
        check_call(batch_size, unreadable, convert_to)
        check_dim(dim, self.model.width)
        work = self.plan(items, batch_size=batch_size, skip_unreadable=unreadable is not None)
        encoded = self.execute(work, packed=packed, show_progress=show_progress)
        encoded.check_finite(inputs)
        if unreadable is not None:
            unreadable.update(encoded.failures)
        vectors = to_precision(truncate(encoded.vectors, dim or self.dim, self.settings.renormalize), precision)
        return torch.from_numpy(vectors) if convert_to == "torch" else vectors

    def plan(self, inputs: Sequence[Any], *, batch_size: int = 32, skip_unreadable: bool = False) -> EncodingPlan:
        """Return the steps in which `encode` computes inputs (planning.py); as a string, a table of what they save.

        Args:
            inputs: what to embed.
            batch_size: as of `encode`.
            skip_unreadable: leave out inputs that cannot be read, and say so in `failures`.

        Raises as `encode` does, but for what only decoding a picture shows, which comes up in `execute`.
        """
        items = items_of(inputs)
        check_taught(items, self.settings.target_space)
        with ThreadPoolExecutor(THREADS) as pool:
            return plan(
                items, self.item_processor, self.suffixes, pool, batch_size=batch_size,
                share=self.model.shares_prefixes, skip_unreadable=skip_unreadable, thinking=self.thinking,
            )  # fmt: skip

    def execute(
        self, work: EncodingPlan, *, packed: bool = False, show_progress: bool | None = None, bar: tqdm | None = None
    ) -> Encoded:
        """Return the whole vectors [N, D] float32 of a plan's list, and why inputs of it cannot be embedded.

        A `bar` given is moved on by each input; the rest is as for `encode`. On a CPU this process keeps freed memory
        from then on (memory.py).
        """
        with embedding_bar(work, show_progress) if bar is None else nullcontext(bar) as shown:
            return execute(work, self.model, self.item_processor, packed, shown)

    def save_pretrained(
        self,
        path: str | os.PathLike[str],
        merge: bool = False,
        *,
        card: ModelCardInfo | Mapping[str, Any] | None = None,
    ) -> None:
        """Write an adapter folder, or a whole model with `merge=True` or where there is no adapter.

        `from_pretrained` gives the same vectors from either, and so does `SentenceTransformer`, which refuses to encode
        where its modules cannot ask so. `card` is what the README.md there says beyond the files (licence, training,
        results), see `model_card.ModelCardInfo`; what the card that the weights came with said is kept. An earlier save
        there is replaced in one step; raises ModelError for a folder that holds anything else, or the adapter's own
        base, and ConfigError for a key no card has.

        A whole model of a quantised embedder is made from its base read again unquantised, since merging into 4 or 8
        bits would round the adapter away: it takes the memory of that, and its vectors differ by what quantising cost.
        """
        if self.quantization and (merge or not self.model.adapted):
            return full_precision(self).save_pretrained(path, merge, card=card)
        save(os.fspath(path), self.model, self.processor, self.settings, merge, card)

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, revision: str | None = None,
        commit_message: str | None = None, merge: bool = False, create_pr: bool = False,
        card: ModelCardInfo | Mapping[str, Any] | None = None,
    ) -> str:  # fmt: skip
        """Upload what `save_pretrained(merge=..., card=...)` writes to the hub; return the commit's address.

        The repository is made where there is none. Weights that an earlier push left there in the other form go, and
        its model card is replaced. Raises ModelError for an adapter whose base is a folder of this machine, for a
        missing or refused token, and where the hub cannot be reached.
        """
        if self.model.adapted and not merge:
            check_base(self.settings.base, self.settings.base_is_folder)
        return push(
            lambda folder: self.save_pretrained(folder, merge, card=card), repo_id, private=private, token=token,
            revision=revision, commit_message=commit_message, create_pr=create_pr,
        )  # fmt: skip
