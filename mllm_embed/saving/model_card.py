"""The model card: the README.md of every saved folder, written from the files beside it and from what is handed in.

What a person or another tool wrote into an earlier card stays: metadata, licence, training, results, added sections.
Only what the files themselves say (how to load it, prompts, vectors) is written anew each time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError
from ..files import read_json, write_file
from .card_results import eval_results, figures_table, read_result, results_section

if TYPE_CHECKING:
    from huggingface_hub import ModelCard, ModelCardData

CARD_FILE = "README.md"
UNKNOWN = "unknown"
_ORDER = ("Use", "Prompts", "Vectors", "Training", "Results", "Licence")
_TAGS = ["mllm_embed", "sentence-transformers", "multimodal-embedding", "composed-image-retrieval"]
_USE = """\
`MODEL` is this folder, or its name on the Hugging Face hub.

```python
from mllm_embed import MLLMEmbedder, Query

embedder = MLLMEmbedder.from_pretrained("MODEL")
queries = embedder.encode_query([Query(image="shoe.jpg", instruction="the same shoe in blue")])
gallery = embedder.encode_document([{"image": "a.jpg"}, "a blue shoe"])
print(embedder.similarity(queries, gallery))
```

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("MODEL")
queries = model.encode_query([{"image": "shoe.jpg", "text": "the same shoe in blue"}])
gallery = model.encode_document(["a.jpg", "a blue shoe"])
print(model.similarity(queries, gallery))
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
    """What a card cannot read from the files beside it. Nothing is needed, and nothing is made up.

    Attributes:
        license: a licence id of the hub ("mit", "apache-2.0"); by default the base model's, if its card is at hand.
        datasets: hub ids of the training data.
        training: one entry a stage, stage -> fact -> value; given for newly trained weights, it replaces the training
            section and drops the results, which were of other weights.
        made_with: further facts of the training: versions, seed, commit.
        results: result.json files of `python -m eval run`, or the folders that hold them.
    """

    license: str | None = None
    datasets: Sequence[str] = ()
    training: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    made_with: Mapping[str, Any] = field(default_factory=dict)
    results: Sequence[str | os.PathLike[str]] = ()

    @classmethod
    def of(cls, value: ModelCardInfo | Mapping[str, Any] | None) -> ModelCardInfo:
        """Read a dict. Raises ConfigError for a key that does not exist."""
        if value is None or isinstance(value, ModelCardInfo):
            return value or cls()
        known = [entry.name for entry in fields(cls)]
        for key in value:
            if key not in known:
                raise ConfigError(f"card: '{key}' is not known; a card takes {', '.join(known)}")
        listed = {
            key: [value[key]] for key in ("datasets", "results") if isinstance(value.get(key), (str, os.PathLike))
        }
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
    from huggingface_hub import ModelCard

    card = _parsed(old, came_from) if old else ModelCard("---\n{}\n---\n")
    intro, sections = _split(card.text)
    adapter = (folder / "adapter_config.json").is_file()
    if info.training:
        card.data.eval_results = None
        sections.pop("Results", None)
    short = base and Path(base).name
    results = [read_result(path) for path in info.results]
    _fill(card.data, info, base, public, adapter, results)
    if ("lora" in (card.data.tags or [])) != adapter or not intro.strip():
        intro = _intro(short, adapter)
    card.data.tags = [tag for tag in dict.fromkeys([*(card.data.tags or []), *_TAGS]) if tag not in ("lora", "peft")]
    card.data.tags += ["lora", "peft"] if adapter else []
    sections |= _from_files(folder, base, adapter)
    if info.training:
        sections["Training"] = _training(info)
    if results:
        sections["Results"] = results_section(sections.get("Results", ""), results)
    if info.license or card.data.license == UNKNOWN or "Licence" not in sections:
        sections["Licence"] = _licence(card.data, info, short)
    names = [*_ORDER, *[name for name in sections if name not in _ORDER]]
    body = "\n\n".join(f"## {name}\n\n{sections[name].strip()}" for name in names if name in sections)
    card.text = f"\n{intro.strip()}\n\n{body}\n"
    write_file(folder / CARD_FILE, str(card).encode())


def of_these_weights(card: str | None, adapted: bool) -> str | None:
    """An earlier card, unless it speaks of a model that has been given a new adapter since."""
    return None if card and adapted and "\n- lora\n" not in card else card


def _parsed(text: str, path: Path | None) -> ModelCard:
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        return ModelCard(text if text.lstrip().startswith("---") else f"---\n{{}}\n---\n{text}")
    except (ValueError, YAMLError, TypeError) as error:
        name = path or "the model card that the weights came with"
        raise DataError(f"the header of {name} is broken ({str(error).splitlines()[0]}); mend or remove it") from error


def _split(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the first "## " outside of code, and the sections by their heading."""
    parts: list[tuple[str, list[str]]] = [("", [])]
    code = False
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


def _fill(
    data: ModelCardData,
    info: ModelCardInfo,
    base: str | None,
    public: bool,
    adapter: bool,
    results: Sequence[Mapping[str, Any]],
) -> None:
    """The metadata (huggingface.co/docs/hub/model-cards); what an earlier card says goes before a guess."""
    data.library_name = data.library_name or "sentence-transformers"
    data.pipeline_tag = data.pipeline_tag or "feature-extraction"
    if base and public and is_hub_id(base):
        data.base_model = data.base_model or base
    if data.base_model:
        data["base_model_relation"] = "adapter" if adapter else data.get("base_model_relation", "finetune")
        if data["base_model_relation"] == "adapter" and not adapter:
            data["base_model_relation"] = "finetune"
    if info.datasets:
        data.datasets = list(dict.fromkeys([*_listed(data.datasets), *info.datasets]))
    if info.license:
        data.license, data.license_name, data.license_link = info.license, None, None
    elif data.license in (None, UNKNOWN):
        of_base = _base_licence(base, public)
        data.license = of_base.get("license", UNKNOWN)
        data.license_name, data.license_link = of_base.get("license_name"), of_base.get("license_link")
    fresh = [entry for result in results for entry in eval_results(result)]
    if fresh:
        about = {(entry.dataset_type, entry.dataset_config) for entry in fresh}
        kept = [e for e in data.eval_results or [] if (e.dataset_type, e.dataset_config) not in about]
        data.eval_results = [*kept, *fresh]
        data.model_name = data.model_name or (base and Path(base).name) or "model"
        data.metrics = None


def is_hub_id(name: str) -> bool:
    """Whether a model's name can be that of a repository rather than of a folder here."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not name.startswith(".") and not Path(name).is_dir()


def _base_licence(base: str | None, public: bool) -> dict[str, str]:
    """The licence keys of the base's card where that is at hand: in its folder, or fetched before. Never a guess."""
    from huggingface_hub import try_to_load_from_cache

    if not base:
        return {}
    path = try_to_load_from_cache(base, CARD_FILE) if public and is_hub_id(base) else Path(base) / CARD_FILE
    if not isinstance(path, (str, Path)) or not Path(path).is_file():
        return {}
    try:
        data = _parsed(Path(path).read_text(encoding="utf-8"), Path(path)).data
    except (DataError, OSError, UnicodeDecodeError):
        return {}
    keys = ("license", "license_name", "license_link")
    return {key: data.get(key) for key in keys if isinstance(data.get(key), str)}


def _intro(base: str | None, adapter: bool) -> str:
    name = base or "a multimodal language model"
    what = f"A LoRA adapter that makes {name} an embedding model" if adapter else f"An embedding model made from {name}"
    return (
        f"# Composed image retrieval with {name}\n\n{what}: a picture, a text, or a picture with an instruction that "
        "changes it becomes one vector, and near vectors mean alike. Made with `mllm_embed`."
    )


def _from_files(folder: Path, base: str | None, adapter: bool) -> dict[str, str]:
    """The sections that the files beside the card tell."""
    settings = read_json(folder / "mllm_embed.json", "save the model again")
    prompts = {name: text for name, text in settings["prompts"].items() if name != "name" and text}
    rows = [[name, "`" + text.replace("\n", "\\n") + "`"] for name, text in prompts.items()]
    use = _USE + (_ADAPTER.replace("BASE", _shown(base)) if adapter else _WHOLE)
    pooled = {"mean": "the mean over the picture's and the user's tokens", "last": "the last token's state"}
    facts = [f"pooling: {pooled[settings['pooling']]}", "normalised to length 1: the inner product is the cosine"]
    pooling = folder / "1_Pooling/config.json"
    if pooling.is_file():
        width = read_json(pooling, "save the model again")["embedding_dimension"]
        facts.insert(0, f"dimension: {width}")
    if settings["bidirectional"]:
        facts.append("attention: bidirectional; sentence-transformers cannot ask this model, mllm_embed can")
    if settings["matryoshka"]:
        facts.append(f"may be cut, and normalised again, to {', '.join(map(str, settings['matryoshka']))} numbers")
    if adapter:
        lora = read_json(folder / "adapter_config.json", "save the model again")
        more = lora.get("modules_to_save")
        facts.append(
            f"LoRA of rank {lora.get('r')}, alpha {lora.get('lora_alpha')}"
            f"{', and in full: ' + ', '.join(more) if more else ''}; base model: {_shown(base)}"
        )
    head = f"Prompt set `{settings['prompts']['name']}`, put through the model's own chat template.\n"
    return {
        "Use": use,
        "Prompts": "\n".join([head, *figures_table([["input", "prompt"], *rows])]),
        "Vectors": "\n".join(f"- {fact}" for fact in facts),
    }


def _shown(base: str | None) -> str:
    """A base's name without the folders above it, which are nobody's business."""
    return "its base model" if not base else Path(base).name if os.path.isabs(base) else base


def _training(info: ModelCardInfo) -> str:
    facts = list(dict.fromkeys(fact for stage in info.training.values() for fact in stage))
    lines = [["stage", *info.training], *[[f, *[s.get(f, "") for s in info.training.values()]] for f in facts]]
    more = [f"- {name}: {value}" for name, value in info.made_with.items()]
    return "\n".join([*figures_table(lines), "", *more])


def _licence(data: ModelCardData, info: ModelCardInfo, base: str | None) -> str:
    if data.license == UNKNOWN:
        return "Unknown: that of the base model applies."
    link = f" ({data.license_link})" if data.license_link else ""
    owner = "" if info.license or not base else f", that of its base model {base}"
    return f"`{data.license_name or data.license}`{link}{owner}."


def _listed(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])
