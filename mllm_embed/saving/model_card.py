"""The model card: the README.md of every saved folder, written from the files beside it and from what is handed in.

All that a person or another tool wrote into an earlier card stays: metadata, licence, training, results, sections of
their own. Only what the files themselves say (how to load it, prompts, vectors) is written anew each time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..files import read_json, write_file
from ..inputs.prompts import CHAT, CHAT_TEXT
from ..model.heads.projection import read_projection
from ..model.lora import ADAPTER_CONFIG
from ..model.pooling import MULTI
from .card_header import CARD_FILE, UNKNOWN, Origin, as_list, fill_header, is_adapter_card, parse_card
from .card_results import markdown_table, read_card_result, results_section
from .sentence_transformers_files import POOLING_FILE
from .settings import SETTINGS_FILE, Settings

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

_ORDER = ("Use", "Prompts", "Vectors", "Training", "Results", "Licence")
_POOLED = {
    "last": "the last token's state",
    "mean": "the mean state",
    "first": "the first token's state",
    "max": "the largest of each number of the states",
    "weightedmean": "the mean, weighted by their places, of the states",
    "mean_sqrt_len_tokens": "the sum, over the root of their number, of the states",
    "multi": "one vector a token (late interaction, scored by MaxSim), the state",
}
_TOKENS = {
    "all": "",
    "content": " of the picture's and the user's tokens",
    "content_pictures": " of the picture's tokens, or of the user's where there is none",
    "content_words": " of the user's tokens, or of the picture's where there are none",
    "pictures": " of the picture's tokens",
    "without_task": " of all tokens but the task's",
}
_DAMAGED = "save the model again"
_USE = """\
`MODEL` is this folder, or its name on the Hugging Face hub.

```python
from mllm_embed import MLLMEmbedder, Query

embedder = MLLMEmbedder.from_pretrained("MODEL")
queries = embedder.encode_query([Query(image="shoe.jpg", instruction="the same shoe in blue")])
gallery = embedder.encode_document([{"image": "a.jpg"}, "a blue shoe"])
print(embedder.similarity(queries, gallery))
```
"""
_USE_STOCK = """\

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("MODEL")
queries = model.encode_query([{"image": "shoe.jpg", "text": "the same shoe in blue"}])
gallery = model.encode_document(["a.jpg", "a blue shoe"])
print(model.similarity(queries, gallery))
```

Both give the same vectors, except where sentence-transformers reads pictures in its own way: give it those with
transparency opened (`PIL.Image.open`), and those with an EXIF rotation by their path.
"""
_USE_MULTI = """\
`MODEL` is this folder, or its name on the Hugging Face hub.

```python
from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.vectors.maxsim import maxsim

embedder = MLLMEmbedder.from_pretrained("MODEL")
queries = embedder.encode_multi([Query(image="shoe.jpg", instruction="the same shoe in blue")])
gallery = embedder.encode_multi([Document(image="a.jpg"), Document(text="a blue shoe")])
print(maxsim(queries, gallery))
```
"""
_ADAPTER = """\

```python
from peft import PeftModel
from transformers import AutoModel

backbone = PeftModel.from_pretrained(AutoModel.from_pretrained("BASE"), "MODEL")  # hidden states, not yet vectors
```
"""
_WHOLE = """\

```python
from transformers import AutoModel, AutoProcessor

backbone, processor = AutoModel.from_pretrained("MODEL"), AutoProcessor.from_pretrained("MODEL")  # hidden states
```
"""


@dataclass(frozen=True)
class ModelCardInfo:
    """Facts that a card cannot read from the files beside it. None is needed, and none is made up.

    Attributes:
        license: a licence id of the hub ("mit", "apache-2.0"); by default the base model's, if its card is at hand.
        datasets: hub ids of the training data.
        training: one entry a stage, stage -> fact -> value; given for newly trained weights, it replaces the training
            section and drops the results, which were of other weights.
        made_with: further facts of the training: versions, seed, commit.
        results: result.json files of `mllm-embed-eval run`, or the folders that hold them.
    """

    license: str | None = None
    datasets: Sequence[str] = ()
    training: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    made_with: Mapping[str, Any] = field(default_factory=dict)
    results: Sequence[str | os.PathLike[str]] = ()

    @classmethod
    def of(cls, value: ModelCardInfo | Mapping[str, Any] | None) -> ModelCardInfo:
        """Return the info in a dict, where one data set or result needs no list. Raises ConfigError for a wrong key."""
        if value is None:
            return cls()
        if isinstance(value, ModelCardInfo):
            return value
        known = [entry.name for entry in fields(cls)]
        for key in value:
            if key not in known:
                raise ConfigError(f"card: '{key}' is not known; a card takes {', '.join(known)}")
        listed = {key: as_list(value[key]) for key in ("datasets", "results") if key in value}
        return cls(**{**value, **listed})


def write_card(
    folder: Path,
    info: ModelCardInfo,
    *,
    base: str | None = None,
    public: bool = True,
    old: str | None = None,
    came_from: Path | None = None,
) -> None:
    """Write FOLDER/README.md for the model saved there.

    Args:
        folder: as `save_pretrained` writes it, all other files in place.
        info: what the files do not say.
        base: name of the model that was fine-tuned, as given.
        public: whether that can be the name of a repository on the hub; a folder's may look like one from elsewhere.
        old: text of an earlier card of the same weights (or of the model before `info.training`).
        came_from: where that stands, for a message.

    Raises DataError for a result that is none, or an earlier card with a broken header.
    """
    origin = Origin(base, public, (folder / ADAPTER_CONFIG).is_file())
    card = parse_card(old or "", came_from)
    data: ModelCardData = card.data  # type: ignore[assignment]  # a ModelCard has no other, though it is not declared so
    intro, sections = _split(card.text)
    settings = Settings.from_dict(read_json(folder / SETTINGS_FILE, _DAMAGED))
    if info.training:  # other weights: what was measured is not theirs
        data.eval_results = None
        sections.pop("Results", None)
    results = [read_card_result(path) for path in info.results]
    if is_adapter_card(data) != origin.adapter or not intro.strip():
        intro = _intro(origin, settings)
    fill_header(data, info, origin, results, stock=not _ours_alone(settings))
    sections |= _from_files(folder, origin, settings)
    sections |= _from_info(info, data, origin, sections, results)
    card.text = _joined(intro, sections)
    write_file(folder / CARD_FILE, str(card).encode("utf-8", "backslashreplace"))


def of_these_weights(card: str | None, adapted: bool) -> str | None:
    """Return an earlier card, unless it speaks of a model that has been given a new adapter since."""
    return None if card and adapted and "\n- lora\n" not in card else card


def _split(text: str) -> tuple[str, dict[str, str]]:
    """Return what stands before the first "## " outside of code, and the sections by their heading."""
    parts: list[tuple[str, list[str]]] = [("", [])]
    code = False  # a comment of a shell or of Python looks like a heading
    for line in text.splitlines():
        code ^= line.startswith("```")
        if line.startswith("## ") and not code:
            parts.append((line[3:].strip(), []))
        else:
            parts[-1][1].append(line)
    (_, intro), *rest = parts
    sections: dict[str, str] = {}
    for name, lines in rest:
        sections[name] = "\n".join([*([sections[name], ""] if name in sections else []), *lines])
    return "\n".join(intro), sections


def _joined(intro: str, sections: Mapping[str, str]) -> str:
    """Return the text of a card: our sections in their order, then those that others added."""
    names = [*_ORDER, *[name for name in sections if name not in _ORDER]]
    body = "\n\n".join(f"## {name}\n\n{sections[name].strip()}" for name in names if name in sections)
    return f"\n{intro.strip()}\n\n{body}\n"


def _intro(origin: Origin, settings: Settings) -> str:
    name = origin.name or "a multimodal language model"
    adapter = f"A LoRA adapter that makes {name} an embedding model"
    what = adapter if origin.adapter else f"An embedding model made from {name}"
    becomes = "a vector for each of its tokens" if settings.pooling in MULTI else "one vector"
    return (
        f"# Composed image retrieval with {name}\n\n{what}: a picture, a text, or a picture with an instruction that "
        f"changes it becomes {becomes}, and near vectors mean alike. Made with `mllm_embed`."
    )


def _from_files(folder: Path, origin: Origin, settings: Settings) -> dict[str, str]:
    """Return the sections that the files beside the card determine."""
    ours = _USE_MULTI if settings.pooling in MULTI else _USE
    use = ours if _ours_alone(settings) else ours + _USE_STOCK
    return {
        "Use": use + (_ADAPTER.replace("BASE", origin.shown) if origin.adapter else _WHOLE),
        "Prompts": _prompts(settings),
        "Vectors": "\n".join(f"- {fact}" for fact in _vectors(folder, settings, origin)),
    }


def _ours_alone(settings: Settings) -> list[str]:
    """Return what of a model sentence-transformers has no module for, in words; empty for one that it may ask."""
    tokens = settings.picture_tokens
    has = {
        "scored by MaxSim": settings.pooling in MULTI,
        "attention: bidirectional": settings.bidirectional,
        f"a picture, or each tile of one, becomes {tokens} tokens by a token learner": bool(tokens),
    }
    return [what for what, is_so in has.items() if is_so]


def _prompts(settings: Settings) -> str:
    chat = settings.prompts.template in (CHAT, CHAT_TEXT)
    through = ", put through the model's own chat template" if chat else ""
    head = f"Prompt set `{settings.prompts.name}`{through}.\n"
    rows = [["input", "prompt"]]
    for name, said in settings.prompts.to_dict().items():
        text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
        if name != "name" and text:
            rows.append([name, "`" + text.replace("\n", "\\n") + "`"])
    return "\n".join([head, *markdown_table(rows)])


def _vectors(folder: Path, settings: Settings, origin: Origin) -> list[str]:
    """Return facts about the vectors, one sentence each."""
    facts = []
    projection = read_projection(folder)
    if projection is not None:
        facts.append(f"dimension: {projection.out_features}")
    elif (folder / POOLING_FILE).is_file():
        facts.append(f"dimension: {read_json(folder / POOLING_FILE, _DAMAGED)['embedding_dimension']}")
    tokens = _TOKENS.get(settings.pooled_tokens, f" of those {settings.pooled_tokens}")
    facts.append(f"pooling: {_POOLED[settings.pooling]}{tokens}")
    facts.append("normalised to length 1: the inner product is the cosine")
    facts += [f"{what}; sentence-transformers cannot ask this model, mllm_embed can" for what in _ours_alone(settings)]
    if settings.thoughts:
        facts.append(f"a query of picture and instruction thinks first, in {settings.thoughts.tokens} tokens at most")
    if settings.lexical:
        facts.append(f"lexical vectors too, of {settings.lexical.words} words at most: `encode_lexical` of mllm_embed")
    if settings.matryoshka:
        facts.append(f"may be cut, and normalised again, to {', '.join(map(str, settings.matryoshka))} numbers")
    if origin.adapter:
        lora = read_json(folder / ADAPTER_CONFIG, _DAMAGED)
        whole = lora.get("modules_to_save")
        in_full = f", and in full: {', '.join(whole)}" if whole else ""
        rank = f"LoRA of rank {lora.get('r')}, alpha {lora.get('lora_alpha')}"
        facts.append(f"{rank}{in_full}; base model: {origin.shown}")
    return facts


def _from_info(
    info: ModelCardInfo,
    data: ModelCardData,
    origin: Origin,
    sections: Mapping[str, str],
    results: Sequence[Mapping[str, Any]],
) -> dict[str, str]:
    """Return the sections to which there is something new to say beside what `sections` say."""
    new = {}
    if info.training:
        new["Training"] = _training(info)
    if results:
        new["Results"] = results_section(sections.get("Results", ""), results)
    if info.license or data.license == UNKNOWN or "Licence" not in sections:
        new["Licence"] = _licence(data, info, origin)
    return new


def _training(info: ModelCardInfo) -> str:
    stages = info.training
    facts = dict.fromkeys(fact for stage in stages.values() for fact in stage)

    def row(fact: str) -> list[Any]:
        return [fact, *(stage.get(fact, "") for stage in stages.values())]

    more = [f"- {name}: {value}" for name, value in info.made_with.items()]
    return "\n".join([*markdown_table([["stage", *stages], *map(row, facts)]), "", *more])


def _licence(data: ModelCardData, info: ModelCardInfo, origin: Origin) -> str:
    if data.license == UNKNOWN:
        return "Unknown: that of the base model applies."
    link = f" ({data.license_link})" if data.license_link else ""
    owner = "" if info.license or not origin.base else f", that of its base model {origin.name}"
    return f"`{data.license_name or data.license}`{link}{owner}."
