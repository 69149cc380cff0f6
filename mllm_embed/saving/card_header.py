"""The header of a model card: metadata that the hub shows and filters by (huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DataError
from .card_results import eval_results
from .hub import is_hub_id

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    from .model_card import ModelCardInfo

CARD_FILE = "README.md"
UNKNOWN = "unknown"
_STOCK, _OURS = "sentence-transformers", "mllm_embed"
_TAGS = (_OURS, _STOCK, "multimodal-embedding", "composed-image-retrieval")
_ADAPTER_TAGS = ("lora", "peft")
_LICENCE_KEYS = ("license", "license_name", "license_link")


class Origin(NamedTuple):
    """The model that a saved one was made from.

    Attributes:
        base: its name, as given; None where it is not known.
        public: whether that can be the name of a repository on the hub; a folder's may look like one from elsewhere.
        adapter: whether an adapter for it was saved, rather than a whole model.
    """

    base: str | None
    public: bool
    adapter: bool

    @property
    def name(self) -> str | None:
        """The base's name without its owner or the folders above it."""
        return Path(self.base).name if self.base else None

    @property
    def shown(self) -> str:
        """The base as a card may name it: without the folders above it, which are private."""
        if not self.base:
            return "its base model"
        return Path(self.base).name if os.path.isabs(self.base) else self.base


def parse_card(text: str, path: Path | None) -> ModelCard:
    """Return a card of this text, with or without a header. Raises DataError, which names `path`, for a broken one."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        return ModelCard(text if text.lstrip().startswith("---") else f"---\n{{}}\n---\n{text}")
    except (ValueError, YAMLError, TypeError) as error:
        name = path or "the model card that the weights came with"
        raise DataError(f"the header of {name} is broken ({str(error).splitlines()[0]}); mend or remove it") from error


def is_adapter_card(data: ModelCardData) -> bool:
    """Return whether a header is that of an adapter's card."""
    return _ADAPTER_TAGS[0] in (data.tags or [])


def fill_header(
    data: ModelCardData, info: ModelCardInfo, origin: Origin, results: Sequence[Mapping[str, Any]], stock: bool
) -> None:
    """Write what is known into a header, in place; what an earlier card says goes before a guess.

    `results` are as of `card_results.read_result`; they replace earlier ones of the same benchmarks. `stock` says that
    sentence-transformers can ask the model: of one that it cannot, no earlier card says so either.
    """
    if not stock and data.library_name == _STOCK:
        data.library_name = None
    data.library_name = data.library_name or (_STOCK if stock else _OURS)
    data.pipeline_tag = data.pipeline_tag or "feature-extraction"
    tags = dict.fromkeys([*(data.tags or []), *_TAGS])
    out = _ADAPTER_TAGS if stock else (*_ADAPTER_TAGS, _STOCK)
    data.tags = [tag for tag in tags if tag not in out] + list(_ADAPTER_TAGS if origin.adapter else ())
    if info.datasets:
        data.datasets = list(dict.fromkeys([*as_list(data.datasets), *info.datasets]))
    _fill_base(data, origin)
    _fill_licence(data, info.license, origin)
    _fill_results(data, origin, results)


def _fill_base(data: ModelCardData, origin: Origin) -> None:
    if origin.base and origin.public and is_hub_id(origin.base):
        data.base_model = data.base_model or origin.base
    if not data.base_model:
        return
    relation = data.get("base_model_relation", "finetune")
    if origin.adapter:
        relation = "adapter"
    elif relation == "adapter":  # as it was before the adapter was merged
        relation = "finetune"
    data["base_model_relation"] = relation


def _fill_licence(data: ModelCardData, given: str | None, origin: Origin) -> None:
    if given:
        data.license, data.license_name, data.license_link = given, None, None
    elif data.license in (None, UNKNOWN):
        of_base = _base_licence(origin)
        data.license = of_base.get("license", UNKNOWN)
        data.license_name, data.license_link = of_base.get("license_name"), of_base.get("license_link")


def _base_licence(origin: Origin) -> dict[str, str]:
    """Return the licence keys of the base's card where that is at hand. They are never guessed."""
    path = _base_card(origin)
    if path is None:
        return {}
    try:
        data = parse_card(path.read_text(encoding="utf-8"), path).data
    except (DataError, OSError, UnicodeDecodeError):
        return {}
    return {key: data.get(key) for key in _LICENCE_KEYS if isinstance(data.get(key), str)}


def _base_card(origin: Origin) -> Path | None:
    """Return the file of the base's card: in its folder, or as it was fetched before; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    if not origin.base:
        return None
    if not (origin.public and is_hub_id(origin.base)):
        path = Path(origin.base) / CARD_FILE
        return path if path.is_file() else None
    found = try_to_load_from_cache(origin.base, CARD_FILE)
    return Path(found) if isinstance(found, str) and Path(found).is_file() else None


def _fill_results(data: ModelCardData, origin: Origin, results: Sequence[Mapping[str, Any]]) -> None:
    fresh = [entry for result in results for entry in eval_results(result)]
    if not fresh:
        return
    replaced = set(map(_measured_on, fresh))
    earlier = [entry for entry in as_list(data.eval_results) if _measured_on(entry) not in replaced]
    data.eval_results = earlier + fresh
    data.model_name = data.model_name or origin.name or "model"
    data.metrics = None  # the results name their own


def _measured_on(entry: EvalResult) -> tuple[str, str | None]:
    return entry.dataset_type, entry.dataset_config


def as_list(value: Any) -> list[Any]:
    """Return what a key that may hold one value or several holds, as a list; None holds none."""
    return [value] if isinstance(value, (str, os.PathLike)) else list(value or [])
