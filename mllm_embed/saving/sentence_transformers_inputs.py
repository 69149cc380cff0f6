"""How sentence-transformers makes model input of a query or document: its Transformer module's file.

Facts are of sentence-transformers 6.2 (base/modules/transformer.py, base/modality.py). With a chat template, "message"
among its modalities, all becomes one user message of structured content, pictures and words in the order given, after a
system message that holds the prompt; there is no generation prompt unless the file says so. Without it, only texts are
embedded, the prompt in front of them. Whatever else the file may ask for is refused by name: what is not understood
would give other vectors without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError, ModelError
from ..inputs.chat_template import render_chat, template_of
from ..inputs.resize import with_picture_settings
from .sentence_transformers_files import MODULE_SETTINGS
from .settings import read_object

_PATH = ("last_hidden_state", ["last_hidden_state"])
# what a content with parts is told by in a template, where a file does not say whether it takes parts or a text
_OF_PARTS = ("content[0]", ".type", "'type'", '"type"', "message.content[")
_UNSET = 10**9  # tokens from which a tokenizer's limit means that it has none
# keys of transformers that say where weights lie and how fast they are, not what they are
_NO_MATTER = frozenset(
    ("attn_implementation", "device_map", "low_cpu_mem_usage", "use_safetensors", "use_cache", "trust_remote_code")
)
_DTYPES = ("dtype", "torch_dtype")
_OLD_NAMES = {"model_kwargs": "model_args", "processor_kwargs": "tokenizer_args", "config_kwargs": "config_args"}
# settings of image processors among those with which a whole processor is loaded
_OF_PICTURES = frozenset(
    (
        "crop_size", "crop_to_patches", "do_center_crop", "do_convert_rgb", "do_image_splitting", "do_normalize",
        "do_pad", "do_rescale", "do_resize", "image_grid_pinpoints", "image_mean", "image_std", "max_image_size",
        "max_image_tiles", "max_patches", "max_pixels", "min_patches", "min_pixels", "resample", "rescale_factor",
        "size",
    )
)  # fmt: skip
_OF_CHATS = ("chat_template", "add_generation_prompt", "restore_suffix")  # the last is of inputs that are cut
# arguments of transformers' apply_chat_template, which are no variables of a template
_RESERVED = frozenset(
    (
        "conversation", "continue_final_message", "documents", "load_audio_from_video", "max_length", "padding",
        "processor_kwargs", "return_assistant_tokens_mask", "return_dict", "return_tensors", "sanitize_control_tokens",
        "tokenize", "tools", "truncation",
    )
)  # fmt: skip


def refusal(place: Path | str, what: str) -> ModelError:
    """Return the error for what a file of sentence-transformers asks for and is not done here."""
    return ModelError(
        f"{place} {what}: that is not done here; use sentence-transformers, or say in a preset how the model is asked "
        "and pooled (--preset FILE)"
    )


@dataclass(frozen=True)
class SentenceInputs:
    """How model input is made.

    Args:
        file: the module's settings.
        chats: whether all goes through a chat template; texts alone, in no frame, otherwise.
        pictures: whether it takes pictures.
        generation_prompt: whether a chat template begins the model's answer.
        template: a chat template in the place of the model's own.
        limit: tokens from which an input is cut there; None for any number.
        dtype: of the weights; None for the checkpoint's.
        message_format: "structured" for messages of parts, "flat" for those of a text; None where the file does not
            say, and the template tells.
        special_tokens: whether the tokenizer may add its own.
        variables: what the template is given.
        image: settings of the image processor.
    """

    file: Path
    chats: bool
    pictures: bool
    generation_prompt: bool
    template: str | None
    limit: int | None
    dtype: str | None
    message_format: str | None
    special_tokens: bool = True
    variables: Mapping[str, Any] = field(default_factory=dict)
    image: Mapping[str, Any] = field(default_factory=dict)

    def prepare(self, processor: Any) -> None:
        """Make of the model's processor, in place, what sentence-transformers makes of it.

        Raises ModelError where it would ask the model in a way that is not done here.
        """
        if self.chats:
            self._give_template(processor)
            self._check_template(processor)
        self._check_special_tokens(processor.tokenizer)
        if self.image:
            self._give_pictures(processor)

    def _give_template(self, processor: Any) -> None:
        template = self.template or template_of(processor)
        if template is None:
            raise refusal(self.file, "puts all into a chat template, and the model has none")
        unknown = [name for name in self.variables if not re.search(rf"\b{re.escape(name)}\b", template)]
        if unknown:
            raise refusal(self.file, f"gives its chat template {unknown[0]}, which is no variable of it")
        given = "".join(f"{{% set {name} = {json.dumps(value)} %}}" for name, value in self.variables.items())
        # the empty output keeps a line break at the template's start, which would be taken for the block's own
        processor.chat_template = f"{given}{{{{ '' }}}}{template}" if given else template
        processor.tokenizer.chat_template = processor.chat_template

    def _check_template(self, processor: Any) -> None:
        """Raise ModelError for a template that takes a text in the place of parts, or tells queries from documents."""
        template = template_of(processor) or ""
        structured = any(mark in template for mark in _OF_PARTS)
        if not (self.message_format == "structured" or (self.message_format in (None, "auto") and structured)):
            raise refusal(self.file, "has messages of plain text (the format 'flat'), in which pictures have no place")
        probe = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
        plain = render_chat(processor, probe)
        if any(render_chat(processor, probe, task=side) != plain for side in ("query", "document")):
            raise refusal(self.file, "has a chat template that asks for the side of a search (its variable 'task')")

    def _check_special_tokens(self, tokenizer: Any) -> None:
        """Raise ModelError where the tokenizer would add tokens of its own and the file forbids it."""
        adds = tokenizer("a")["input_ids"] != tokenizer("a", add_special_tokens=False)["input_ids"]
        if adds and not self.special_tokens:
            raise refusal(self.file, "forbids the tokenizer to add tokens (add_special_tokens: false)")

    def _give_pictures(self, processor: Any) -> None:
        try:
            with_picture_settings(processor, self.image)
        except ConfigError as error:
            raise ModelError(f"{self.file} gives the image processor what it does not take: {error}") from error


def read_inputs(folder: Path) -> SentenceInputs:
    """Return how sentence-transformers makes model input for the model in a folder.

    Raises ModelError, which names file and key, for what is not done here.
    """
    path = folder / MODULE_SETTINGS
    values = read_object(path) if path.is_file() else {}
    for name, old in _OLD_NAMES.items():
        values[name] = _object(path, values, old if old in values else name)
        values.pop(old, None)
    _check_keys(path, values)
    chats, pictures, message_format = _modalities(path, values)
    parts = _processing(path, values)
    asked = parts["chat_template"]
    loaded = {key: value for key, value in values["processor_kwargs"].items() if key in _OF_PICTURES}
    return SentenceInputs(
        file=path,
        chats=chats,
        pictures=pictures,
        generation_prompt=_flag(path, asked, "add_generation_prompt", False),
        template=_text(path, asked, "chat_template"),
        variables={key: value for key, value in asked.items() if key not in _OF_CHATS},
        image={**loaded, **parts["image"]},
        special_tokens=_flag(path, parts["text"], "add_special_tokens", True),
        limit=_limit(folder, values, parts["text"]),
        dtype=_dtype(path, values["model_kwargs"]),
        message_format=message_format,
    )


def _processing(path: Path, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the arguments with which a processor is called, by their part; all of them are known."""
    processing = _object(path, values, "processing_kwargs")
    parts = {key: _object(path, processing, key) for key in ("common", "text", "image", "chat_template")}
    _only(path, "processing_kwargs.common", parts["common"], ("return_tensors", "padding"))
    texts = ("truncation", "max_length", "padding", "add_special_tokens")
    _only(path, "processing_kwargs.text", parts["text"], texts)
    loading = {*_OF_PICTURES, "model_max_length", "padding_side", *_NO_MATTER}
    _only(path, "processor_kwargs", values["processor_kwargs"], loading)
    taken = next((key for key in parts["chat_template"] if key in _RESERVED), None)
    if taken:
        raise refusal(path, f"sets processing_kwargs.chat_template.{taken}")
    return parts


def _nothing(value: Any) -> bool:
    return value is None


def _no(value: Any) -> bool:
    return value in (None, False)


# key -> whether a value of it is one that is read, of the keys that need no more
_PLAIN_KEYS: dict[str, Callable[[Any], bool]] = {
    "transformer_task": lambda value: value == "feature-extraction",
    "module_output_name": lambda value: value in (None, "token_embeddings"),
    "do_lower_case": _no,
    "query_length": _nothing,
    "document_length": _nothing,
    "query_expansion": _nothing,
    "tokenizer_name_or_path": _nothing,
    "unpad_inputs": lambda value: value in (None, True, False),  # a faster way to the same states
    "max_seq_length": lambda value: value is None or (type(value) is int and value > 0),
}
_OTHER_KEYS = ("modality_config", "processing_kwargs", *_OLD_NAMES)


def _check_keys(path: Path, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if key in _OTHER_KEYS:
            continue
        if key not in _PLAIN_KEYS or not _PLAIN_KEYS[key](value):
            raise refusal(path, f"sets {key} to {json.dumps(value)[:60]}")
    _only(path, "config_kwargs", values["config_kwargs"], _NO_MATTER)
    _only(path, "model_kwargs", values["model_kwargs"], {*_DTYPES, *_NO_MATTER})


def _modalities(path: Path, values: Mapping[str, Any]) -> tuple[bool, bool, str | None]:
    """Return whether all goes through a chat template, whether there may be pictures, and the format of messages."""
    if "modality_config" not in values:
        return False, False, None
    config = _object(path, values, "modality_config")
    chats, pictures = "message" in config, "image" in config
    if "text" not in config:
        raise refusal(path, "takes no texts (its modality_config)")
    if not chats and any("image" in key.split("+") for key in config):
        raise refusal(path, "takes pictures past the chat template (modality_config without 'message')")
    if "module_output_name" not in values:
        raise refusal(path, "has a modality_config without module_output_name")
    for key in ("text", "image", "message"):
        if key in config:
            _check_states(path, key, _object(path, config, key))
    return chats, chats and pictures, config["message"].get("format") if chats else None


def _check_states(path: Path, kind: str, entry: Mapping[str, Any]) -> None:
    """Raise ModelError for a kind of input of which something else than the last hidden states is taken."""
    method, output = entry.get("method"), entry.get("method_output_name")
    if method != "forward" or output not in _PATH:
        raise refusal(path, f"takes '{kind}' by {method}, of which it takes {output}")


def _limit(folder: Path, values: Mapping[str, Any], text: Mapping[str, Any]) -> int | None:
    """Return the tokens to which an input is cut; None where it is not."""
    path, truncation = folder / MODULE_SETTINGS, text.get("truncation", "longest_first")
    if truncation in (False, "do_not_truncate"):
        return None
    if truncation not in (True, None, "longest_first", "only_first"):
        raise refusal(path, f"cuts inputs by {truncation!r}")
    tokenizer = folder / "tokenizer_config.json"
    own = read_object(tokenizer).get("model_max_length") if tokenizer.is_file() else None
    given = (
        text.get("max_length"), values["processor_kwargs"].get("model_max_length"), values.get("max_seq_length"), own
    )  # fmt: skip
    limit = next((value for value in given if value is not None), None)
    if limit is not None and (type(limit) not in (int, float) or limit < 1):
        raise refusal(path, f"cuts inputs to {limit!r} tokens")
    return None if limit is None or limit >= _UNSET else int(limit)


def _dtype(path: Path, given: Mapping[str, Any]) -> str | None:
    value = next((given[key] for key in _DTYPES if given.get(key) not in (None, "auto")), None)
    name = str(value).removeprefix("torch.")
    if value is not None and name not in ("float32", "float16", "bfloat16"):
        raise refusal(path, f"loads weights as {value!r}")
    return None if value is None else name


def _object(path: Path, values: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key)
    if value is not None and not isinstance(value, dict):
        raise ModelError(f"{path} is damaged ({key} is no JSON object); fetch it again")
    return dict(value or {})


def _flag(path: Path, values: Mapping[str, Any], key: str, default: bool) -> bool:
    value = values.get(key, default)
    if not isinstance(value, bool):
        raise ModelError(f"{path} is damaged ({key} is {value!r}, not true or false); fetch it again")
    return value


def _text(path: Path, values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    if value is not None and not isinstance(value, str):
        raise ModelError(f"{path} is damaged ({key} is {value!r}, not a text); fetch it again")
    return value


def _only(path: Path, where: str, values: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise ModelError for a key that is not known."""
    unknown = next((key for key in values if key not in known), None)
    if unknown is not None:
        raise refusal(path, f"sets {where}.{unknown}")
