"""What decides a vector beside weights, prompts and pooling: the processor's parts, and an adapter's settings.

They go into the provenance of vectors. What does not decide stays out: where files lie, how they are laid out, what a
processor was last called with, so that a model that was saved and loaded again is the same one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..inputs.chat_template import template_of
from ..inputs.pooled_tokens import takes_content
from ..model.lora import ADAPTER_CONFIG, check_options
from .provenance import LEXICAL, THOUGHTS
from .settings import Settings, read_object

_LONGEST = 200  # characters of a value that a manifest shows; of a longer one it has the sha256
# of a tokenizer's state: what it was last called with, and how it makes text of tokens
_NOT_OF_TOKENS = ("version", "truncation", "padding", "decoder")
# of a processor's settings: other parts, and for what it was called
_NOT_OF_PICTURES = ("image_processor_type", "processor_class", "data_format", "device", "return_tensors")
_known: dict[str, str] = {}  # sha256 of a tokenizer's state as it is written -> that of what it says
_OTHER_PARTS = ("image_processor", "tokenizer", "video_processor", "processor_class", "auto_map", "image_token")
# of an adapter: what training alone reads, and names of others
_NOT_OF_ADAPTERS = (
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "inference_mode", "loftq_config", "lora_dropout",
    "megatron_core", "peft_version", "revision", "task_type",
)  # fmt: skip
# what a setting says that changes nothing, since it is peft's default; a newer version adds settings of its own
_NOTHING: tuple[Any, ...] = ([], {}, "none", "")


def provenance_of(
    settings: Settings,
    processor: Any,
    *,
    cut: int | None,
    shortened: bool,
    dimension: int,
    quantization: str | None,
    dtype: str,
) -> dict[str, Any]:
    """Return the record of what makes vectors, as plain JSON.

    `cut` is how many tokens an input is cut to, None where none is; `shortened` says that vectors are cut, and not
    brought to unit length again.
    """
    said = settings.to_dict()
    return {
        "name": settings.base,
        "base": settings.base_fingerprint,
        "weights": settings.weights,
        "adapter": settings.adapter,
        "adapter_settings": settings.adapter_settings,
        "processor": processor_parts(processor),
        "settings": {
            **{key: said[key] for key in ("pooling", "bidirectional", "normalize", "prompts")},
            **settings.recipe,
            # version 0.1.0 told the user's words from the prompt's by other means, and pooled some of both
            **({"pooled_words": "by their characters"} if takes_content(settings.pooled_tokens) else {}),
            **({} if cut is None else {"truncate": cut}),
            **({"renormalize": False} if shortened else {}),
        },
        "dimension": dimension,
        "quantization": quantization,
        "dtype": dtype,
        # apart, and only where there are any: what is found never thinks, and goes with queries that do
        **({THOUGHTS: settings.thoughts.to_dict()} if settings.thoughts else {}),
        # apart too: dense vectors are the same with and without
        **({LEXICAL: settings.lexical.to_dict()} if settings.lexical else {}),
    }


def processor_parts(processor: Any) -> dict[str, Any]:
    """Return what of a processor decides vectors, as plain JSON, by the names by which a refusal calls them.

    Tokenizer and chat template are sha256, the rest are settings; None where there is no such part.
    """
    template = template_of(processor)
    pictures = processor.image_processor
    return {
        "tokenizer": _tokenizer_digest(processor.tokenizer),
        "chat_template": None if template is None else _digest(template),
        "image_processor": {"class": type(pictures).__name__} | _shown(pictures.to_dict(), _NOT_OF_PICTURES),
        "settings": {"class": type(processor).__name__} | _shown(processor.to_dict(), _OTHER_PARTS),
    }


def adapter_settings(folder: str | Path) -> dict[str, Any]:
    """Return what an adapter's config says about how its tensors change the base.

    Raises ModelError for a damaged one, and for another kind of adapter than LoRA.
    """
    values = read_object(Path(folder) / ADAPTER_CONFIG)
    if values.get("peft_type") != "LORA":
        kind = values.get("peft_type")
        raise ModelError(
            f"peft_type is {kind!r} in {Path(folder) / ADAPTER_CONFIG}; adapters of the kind LORA are read"
        )
    check_options(values, Path(folder) / ADAPTER_CONFIG)
    if values.get("init_lora_weights") is True:  # the weights are read all the same
        del values["init_lora_weights"]
    if not values.get("use_qalora"):
        values.pop("qalora_group_size", None)
    said = {key: _in_order(value) for key, value in values.items() if value is not False and value not in _NOTHING}
    return _shown(said, _NOT_OF_ADAPTERS)


def _in_order(value: Any) -> Any:
    """Return the names in a list in one order; peft keeps them as a set."""
    return sorted(value) if isinstance(value, list) and all(isinstance(name, str) for name in value) else value


def _shown(values: Mapping[str, Any], without: tuple[str, ...]) -> dict[str, Any]:
    """Return settings by name, long values by their sha256."""
    plain = json.loads(json.dumps(values, default=str))
    kept = {key: plain[key] for key in sorted(plain) if key not in without and plain[key] is not None}
    return {key: _short(value) for key, value in kept.items()}


def _short(value: Any) -> Any:
    text = json.dumps(value, sort_keys=True)
    return value if len(text) <= _LONGEST else _digest(text)


def _tokenizer_digest(tokenizer: Any) -> str:
    """Return the sha256 of all that makes tokens of a text."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if hasattr(backend, "to_str"):
        state: dict[str, Any] = {"tokens": _backend_digest(backend.to_str())}
    else:  # in Python: a sentencepiece model, or words alone
        pieces = getattr(tokenizer, "sp_model", None)
        added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
        state = {"vocab": tokenizer.get_vocab(), "added": added, "class": type(tokenizer).__name__}
        state["pieces"] = hashlib.sha256(pieces.serialized_model_proto()).hexdigest() if pieces is not None else None
    # padding is masked, whatever it is
    special = {name: token for name, token in tokenizer.special_tokens_map.items() if name != "pad_token"}
    state["special"], state["splits_special"] = special, tokenizer.split_special_tokens
    return _digest(json.dumps(state, sort_keys=True, default=str))


def _backend_digest(text: str) -> str:
    """Return the sha256 of a tokenizer's state in JSON, which takes a second to compare for a large vocabulary."""
    key = _digest(text)
    if key not in _known:
        state = {name: value for name, value in json.loads(text).items() if name not in _NOT_OF_TOKENS}
        _known[key] = _digest(json.dumps(_without_defaults(state), sort_keys=True))
    return _known[key]


def _without_defaults(value: Any) -> Any:
    """Return JSON without what is null or false: a newer version of tokenizers says so of what it has learned since."""
    if isinstance(value, dict):
        return {
            key: _without_defaults(inner) for key, inner in value.items() if inner is not None and inner is not False
        }
    if isinstance(value, list):
        return [_without_defaults(inner) for inner in value]
    return value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
