"""`Reranker`: a query and candidates in, a score for each out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tqdm import tqdm

from ..encode.embedder import MLLMEmbedder
from ..encode.execution import check_call
from ..encode.memory import keep_pages
from ..encode.model_source import item_processor
from ..errors import ConfigError
from ..inputs.pairs.pair_processor import PairProcessor
from ..inputs.pairs.prompt import RerankPrompt
from ..model.devices import device_for
from ..model.embedding_model import EmbeddingModel
from ..model.families import family_of
from ..model.loading import load_model
from ..model.lora import load_adapter
from ..model.quantization import quantization_of
from ..presets.rerankers.catalog import RerankPreset
from ..saving.reranker_settings import RerankSettings
from ..types import as_document, as_query
from .beside import bare_base, check_beside
from .head import word_logits
from .lists import in_order
from .model import RerankModel
from .saving import save_reranker
from .scoring import margins
from .source import RerankSource, find_reranker
from .words import answers_of


class Reranker:
    """A multimodal LLM that reads a query and a candidate together, and says how well they fit."""

    def __init__(self, model: RerankModel, processor: Any, settings: RerankSettings):
        """Wrap a model that is loaded already; `from_pretrained` and `beside` load one.

        Args:
            model: the model and the words of its answers; it is put into eval mode.
            processor: its family's Hugging Face processor, without a part for videos.
            settings: its prompt, and the base and adapter that it belongs to.
        """
        self.model, self.processor, self.settings = model.eval(), processor, settings
        items = item_processor(processor, settings.reading, model.model.base.config, model.model.family)
        self.pairs = PairProcessor(items, settings.prompt)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        adapter: str | os.PathLike[str] | None = None,
        preset: RerankPreset | str | os.PathLike[str] | None = None,
        prompt: RerankPrompt | Mapping[str, Any] | None = None,
        dtype: str | torch.dtype = "auto",
        quantization: str | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
    ) -> Reranker:
        """Load a re-ranker.

        Args:
            model: folder or hub id of what `save_pretrained` wrote, adapters included, of a published re-ranker, or of
                any image-text model, which is then asked untrained.
            adapter: folder or hub id of a re-ranker's adapter for `model`.
            preset: name of a published re-ranker's preset (`mllm-embed presets` lists them), or a YAML or JSON file
                with one; by default that of the hub id, where there is one.
            prompt: in the place of the saved one, or that of the preset.
            dtype, quantization, device, revision: as of `MLLMEmbedder.from_pretrained`.

        Raises ModelError for a path that is no model, one without a head, an adapter that does not fit, is an
        embedder's or belongs to another base; ConfigError for an option that does not exist or does not fit.
        """
        source = find_reranker(model, adapter, preset, revision)
        parts, place = source.parts, device_for(device)
        backbone = load_model(parts.base, parts.dtype(dtype, place), parts.revision, quantization, place)
        processor = parts.processor(backbone)
        if source.preset:
            source.preset.about.check(parts.base, backbone.config.model_type)
        return cls._on(backbone, processor, source, prompt, place)

    @classmethod
    def beside(
        cls,
        embedder: MLLMEmbedder,
        adapter: str | os.PathLike[str] | None = None,
        *,
        prompt: RerankPrompt | Mapping[str, Any] | None = None,
    ) -> Reranker:
        """Load a re-ranker's adapter on the base of an embedder, whose weights both then share.

        It has layers of its own, on the very tensors of the embedder's base: nothing is switched, and no vector of the
        embedder's changes by a bit.

        Args:
            embedder: whose adapter was not merged.
            adapter: folder or hub id of the re-ranker's adapter; without one the base is asked untrained.
            prompt: in the place of the saved one.

        Raises ModelError as `from_pretrained`, and ConfigError for an embedder whose base is no longer there.
        """
        base = check_beside(embedder)
        source = find_reranker(base, adapter, None, embedder.settings.base_revision)
        backbone = bare_base(embedder.model)
        processor = source.parts.processor(backbone)
        return cls._on(backbone, processor, source, prompt, embedder.device)

    @classmethod
    def _on(
        cls,
        backbone: Any,
        processor: Any,
        source: RerankSource,
        prompt: RerankPrompt | Mapping[str, Any] | None,
        place: torch.device,
    ) -> Reranker:
        """Return the re-ranker of a loaded base, with the adapter and the rows of the head that it has."""
        parts, settings = source.parts, source.settings(backbone.config)
        if prompt is not None:
            settings = settings.asked(prompt)
        answers = answers_of(processor.tokenizer, settings.prompt)
        words = word_logits(backbone, parts.base, parts.revision, answers.tokens)
        model = EmbeddingModel(backbone, family_of(backbone.config), positions=settings.reading.positions)
        if parts.has_adapter:
            load_adapter(model, parts.folder)
            model.backbone.to(backbone.dtype)  # adapters are trained, and saved, in float32
        whole = RerankModel(model, words, len(answers.yes), len(answers.labels))
        return cls(whole.to(place), processor, settings)

    @property
    def prompt(self) -> RerankPrompt:
        """How it is asked, saved with it."""
        return self.settings.prompt

    @property
    def device(self) -> torch.device:
        """Where the weights lie and scores are computed."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type that the base model computes in; logits are float32 all the same."""
        return self.model.model.base.dtype

    @property
    def provenance(self) -> dict[str, Any]:
        """A record that tells this re-ranker's scores from others', as plain JSON: weights, prompt, tokenizer, chat
        template, image processor, number format."""
        dtype = str(self.dtype).removeprefix("torch.")
        return self.settings.provenance(self.processor, quantization_of(self.model.model.base), dtype)

    def scores(
        self, query: Any, candidates: Sequence[Any], *, batch_size: int = 32, show_progress: bool | None = False
    ) -> list[float]:
        """Return how well each candidate fits a query: more is better.

        That is how much likelier the model says yes than no, the difference of two logits, or as its prompt has it the
        probability of yes among the two.

        Args:
            query: a Query, or what `types.as_query` reads.
            candidates: Documents, pictures, texts, dicts: what `types.as_document` reads.
            batch_size, show_progress: as of `MLLMEmbedder.encode`.

        Raises DataError for what cannot be asked, ImageError for an unreadable picture, ModelError for a model that
        makes NaN of a pair.
        """
        [found] = self.scores_of([(query, candidates)], batch_size=batch_size, show_progress=show_progress)
        return found

    def scores_of(
        self,
        lists: Sequence[tuple[Any, Sequence[Any]]],
        *,
        batch_size: int = 32,
        share: bool = True,
        show_progress: bool | None = None,
    ) -> list[list[float]]:
        """Return the scores of many queries' candidates, each as `scores` does, in the order given.

        `share` computes a query's part of the prompt once for all of its candidates where the family can do that; in
        float32 no score changes by more than 1e-5 of the states' length, in half precision rounding moves it more.
        """
        check_call(batch_size, None, "numpy")
        asked = [(as_query(query), list(map(as_document, candidates))) for query, candidates in lists]
        if self.device.type == "cpu":
            keep_pages()
        hide = None if show_progress is None else not show_progress
        total = sum(len(candidates) for _, candidates in asked)
        with tqdm(total=total, desc="judging", unit="pair", disable=hide, mininterval=1) as bar:
            found = margins(self.model, self.pairs, asked, batch_size, share, bar)
        if self.prompt.score == "difference":
            return found
        return list(map(_probabilities, found))

    def relevance(self, scores: Sequence[float]) -> list[float]:
        """Return the probabilities of yes among yes and no, 0 to 1, that scores of this re-ranker stand for.

        Two that are near 1 may be equal where the scores are not: put candidates in order by these.
        """
        return list(scores) if self.prompt.score == "sigmoid" else _probabilities(scores)

    def rank(self, query: Any, candidates: Sequence[Any], *, batch_size: int = 32) -> list[tuple[int, float]]:
        """Return the places of candidates in the list given and their scores, the best first; equal ones in the order
        given. Arguments and errors are those of `scores`."""
        scores = self.scores(query, candidates, batch_size=batch_size)
        return sorted(enumerate(scores), key=lambda one: -one[1])

    def list_scores(self, query: Any, candidates: Sequence[Any]) -> list[float]:
        """Return the logits by which the model would name each of a list of candidates that it sees in one prompt.

        They are to be compared within the list alone. Raises ConfigError where the prompt has no form of lists, or for
        more candidates than it has labels; the rest as `scores`.
        """
        form, listed = self.prompt.list, list(map(as_document, candidates))
        if form is not None and len(listed) > form.most:
            raise ConfigError(f"the prompt has labels for {form.most} candidates, not {len(listed)}; use rank_list")
        batch = self.pairs.list_batch([(as_query(query), listed)])
        with torch.inference_mode():
            logits = self.model.list_logits(**{name: tensor.to(self.device) for name, tensor in batch.items()})
        return logits[0, : len(listed)].tolist()

    def rank_list(self, query: Any, candidates: Sequence[Any]) -> list[int]:
        """Return the places of candidates, the best first, by `list_scores` over windows from the last to the first.

        Each window's better half goes on to the next one (RankGPT, arXiv 2304.09542, section 3.2). Raises as
        `list_scores`.
        """
        most = self.prompt.list.most if self.prompt.list else 1
        return in_order(lambda part: self.list_scores(query, [candidates[at] for at in part]), len(candidates), most)

    def save_pretrained(self, path: str | os.PathLike[str], merge: bool = False) -> None:
        """Write an adapter folder, or a whole model with `merge=True` or where there is no adapter.

        `from_pretrained` gives the same scores from either; a whole model is one that sentence-transformers'
        `CrossEncoder` reads, where its modules can ask so. An earlier save there is replaced in one step. Raises
        ModelError for a folder that holds anything else, or the adapter's own base.
        """
        save_reranker(os.fspath(path), self.model, self.processor, self.settings, merge)


def _probabilities(margins: Sequence[float]) -> list[float]:
    """Return the probabilities of yes of differences of logits."""
    return torch.tensor(margins, dtype=torch.float64).sigmoid().tolist()
