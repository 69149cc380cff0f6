"""Whether a pair's target is what its instruction asks for: by an embedder, or by a model that sees both pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mllm_embed.errors import ConfigError
from mllm_embed.generate.answer_cache import REFUSED, CachedAnswer, cache_key
from mllm_embed.generate.rerank import EDITED
from mllm_embed.saving.provenance import SPACE_FIELDS, VECTOR_FIELDS, check_same, facts
from mllm_embed.store.gallery import StoreGallery
from mllm_embed.types import Query

from ..answers import plain
from ..asked import Asked
from .pairs import Pair

if TYPE_CHECKING:
    from mllm_embed import MLLMEmbedder

    from ..asking import Answerer
    from .gallery import Pictures
    from .seeing import Seeing

CHECKED = {
    "unreadable": "the check could not read a picture, or was refused",
    "not_found": "the target is not among the first --check-top pictures for the question",
    "reference_nearer": "the question is not nearer to the target than to the reference by --check-margin",
    "denied": "the model says that the target does not show what is asked for",
}
TOGETHER = 256  # questions that are embedded together, always the same ones
_DIGITS = 4  # of a cosine, which differs in further ones by what else was in a batch


@dataclass(frozen=True)
class Candidate:
    """A pair and an instruction that may lead from its reference to its target."""

    pair: Pair
    instruction: str


@dataclass(frozen=True)
class Verdict:
    """Why a candidate is dropped, a key of `CHECKED`, None where it stands; the hard negatives that it may keep."""

    reason: str | None
    negatives: tuple[str, ...] = ()
    facts: dict[str, float] = field(default_factory=dict)


class Check(Protocol):
    """A check of candidates; `together` as of `asking.collect`."""

    name: str
    identity: dict[str, Any]
    cure: str
    together: int

    def key(self, candidate: Candidate) -> str:
        """Return the key of a candidate's answer in the cache."""
        ...

    def ask(self, prompts: Iterable[tuple[str, Candidate]]) -> Iterator[tuple[str, CachedAnswer]]:
        """Yield (key, answer) for each (key, candidate)."""
        ...

    def verdict(self, candidate: Candidate, answer: CachedAnswer) -> Verdict:
        """Return what an answer says of a candidate."""
        ...


class EmbedderCheck:
    """The question of reference and instruction, asked of the store that the pairs come from.

    Args:
        embedder: the model that made the store's vectors.
        gallery: the store, or an index of it.
        pictures: the pictures by their ids.
        top: the target is among the first so many, the reference left out.
        margin: the target's cosine is higher than the reference's by at least this.
        ceiling: a hard negative above `ceiling` times the target's cosine is probably right too, and is no negative
            (as of `mining.negatives.Rules`); None keeps all.
        batch_size: as of `MLLMEmbedder.encode`.

    Raises ConfigError where the store was made by another model.
    """

    together = TOGETHER

    def __init__(
        self, embedder: MLLMEmbedder, gallery: StoreGallery, pictures: Pictures, top: int = 100, margin: float = 0.0,
        ceiling: float | None = 0.95, batch_size: int = 32,
    ):  # fmt: skip
        check_same(gallery.provenance, embedder.provenance, SPACE_FIELDS, gallery.store.folder)
        self._embedder, self._gallery, self._pictures = embedder, gallery, pictures
        self._top, self._margin, self._ceiling, self._batch = top, margin, ceiling, batch_size
        made_by = facts(embedder.provenance, VECTOR_FIELDS)
        self.name, self.cure = "checking", "see to the pictures"
        self.identity = {"check": "embedder", "model": made_by, "store": gallery.store.fingerprint, "top": top}

    def key(self, candidate: Candidate) -> str:
        """As `Check.key`."""
        pair = candidate.pair
        return cache_key(
            self.identity, "\n".join([pair.reference, pair.target, candidate.instruction, *pair.negatives])
        )

    def ask(self, prompts: Iterable[tuple[str, Candidate]]) -> Iterator[tuple[str, CachedAnswer]]:
        """As `Check.ask`: an answer holds cosines of target, reference and negatives, and the target's rank."""
        waiting = iter(prompts)
        while block := list(islice(waiting, TOGETHER)):
            queries = [Query(self._pictures[candidate.pair.reference], candidate.instruction) for _, candidate in block]
            lost: dict[int, str] = {}
            vectors = self._embedder.encode(queries, batch_size=self._batch, show_progress=False, unreadable=lost)
            exclude = [[candidate.pair.reference] for _, candidate in block]
            answers = self._gallery.nearest(vectors, self._top, exclude=exclude)
            for place, (key, candidate) in enumerate(block):
                if place in lost:
                    yield key, CachedAnswer(lost[place], REFUSED)
                else:
                    found = [name for name, _ in answers[place]]
                    yield key, CachedAnswer(json.dumps(self._facts(vectors[place], candidate.pair, found)))

    def verdict(self, candidate: Candidate, answer: CachedAnswer) -> Verdict:
        """As `Check.verdict`."""
        if answer.finish == REFUSED:
            return Verdict("unreadable")
        facts = json.loads(answer.text)
        if facts["rank"] is None:
            return Verdict("not_found")
        if facts["target"] - facts["reference"] < self._margin:
            return Verdict("reference_nearer")
        return Verdict(None, self._kept(candidate.pair, facts))

    def _kept(self, pair: Pair, facts: dict[str, Any]) -> tuple[str, ...]:
        if self._ceiling is None:
            return pair.negatives
        limit = facts["target"] - (1 - self._ceiling) * abs(facts["target"])
        cosines = zip(pair.negatives, facts["negatives"], strict=True)
        return tuple(name for name, cosine in cosines if cosine <= limit)

    def _facts(self, query: np.ndarray, pair: Pair, found: Sequence[str]) -> dict[str, Any]:
        store = self._gallery.store
        rows = store.take(store.positions([pair.target, pair.reference, *pair.negatives])).astype(np.float64)
        target, reference, *negatives = (round(float(cosine), _DIGITS) for cosine in rows @ query)
        rank = found.index(pair.target) + 1 if pair.target in found else None
        return {"target": target, "reference": reference, "rank": rank, "negatives": negatives}


class YesNoCheck:
    """A model that sees both pictures is asked whether the second shows the first as the instruction changes it.

    Args:
        answerer: who is asked: a server, whose answer begins with yes or no.
        pictures: the pictures by their ids.
        side: as of `Asked`.
    """

    together = 1

    def __init__(self, answerer: Answerer[Asked], pictures: Pictures, side: int):
        self._answerer, self._pictures, self._side = answerer, pictures, side
        self.name, self.cure = answerer.name, answerer.cure
        self.identity = {**answerer.identity, "check": EDITED, "side": side}

    def key(self, candidate: Candidate) -> str:
        """As `Check.key`."""
        pair = candidate.pair
        digests = [self._pictures.digest(name) for name in (pair.reference, pair.target)]
        return cache_key({**self.identity, "pictures": digests}, candidate.instruction)

    def ask(self, prompts: Iterable[tuple[str, Candidate]]) -> Iterator[tuple[str, CachedAnswer]]:
        """As `Check.ask`."""
        return self._answerer.ask((key, self._asked(candidate)) for key, candidate in prompts)

    def verdict(self, candidate: Candidate, answer: CachedAnswer) -> Verdict:
        """As `Check.verdict`."""
        if answer.finish == REFUSED:
            return Verdict("unreadable")
        said = plain(answer.text.rpartition("</think>")[2]).split()
        return Verdict(None if said[:1] == ["yes"] else "denied", candidate.pair.negatives)

    def _asked(self, candidate: Candidate) -> Asked:
        pair = candidate.pair
        words = EDITED.replace("{instruction}", candidate.instruction)
        return Asked(words, (self._pictures[pair.reference], self._pictures[pair.target]), self._side)


class MarginCheck(YesNoCheck):
    """The same of a model on this machine, of which it is known how much likelier yes is than no.

    Args:
        seeing: the model.
        pictures, side: as of `YesNoCheck`.
        margin: logits by which yes is likelier than no, at least.
    """

    def __init__(self, seeing: Seeing, pictures: Pictures, side: int, margin: float = 0.0):
        super().__init__(seeing, pictures, side)
        self._seeing, self._margin = seeing, margin

    def ask(self, prompts: Iterable[tuple[str, Candidate]]) -> Iterator[tuple[str, CachedAnswer]]:
        """As `Check.ask`."""
        return self._seeing.yes_no((key, self._asked(candidate)) for key, candidate in prompts)

    def verdict(self, candidate: Candidate, answer: CachedAnswer) -> Verdict:
        """As `Check.verdict`."""
        if answer.finish == REFUSED:
            return Verdict("unreadable")
        return Verdict(None if float(answer.text) >= self._margin else "denied", candidate.pair.negatives)


def check_numbers(top: int, margin: float, ceiling: float | None) -> None:
    """Raise ConfigError for numbers with which no check makes sense."""
    if top < 1:
        raise ConfigError(f"--check-top must be at least 1, not {top}")
    if not np.isfinite(margin):
        raise ConfigError(f"--check-margin must be a number, not {margin}")
    if ceiling is not None and not 0 < ceiling <= 1:
        raise ConfigError(f"--ceiling is a share of the target's cosine, above 0 and up to 1, not {ceiling:g}")
