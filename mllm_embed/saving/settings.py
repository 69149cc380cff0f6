"""The settings of a saved embedder: what its vectors depend on beside the weights, as a JSON file in its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import ConfigError, ModelError, did_you_mean
from ..inputs.pooled_tokens import ALL, check_pooled, pooled_by_default, takes_content
from ..inputs.prompts import PromptSet
from ..inputs.resize import Resize
from ..model.heads.lexical_head import Lexical
from ..model.pooling import MULTI, POOLINGS
from ..model.position_ids import POSITIONS
from ..thoughts.form import Thoughts
from .sentence_transformers_files import saved_settings

if TYPE_CHECKING:
    from ..inputs.item_processor import PaddingSide
    from ..model.pooling import Pooling
    from ..model.position_ids import Positions

SETTINGS_FILE = "mllm_embed.json"
RERANKER_FILE = "mllm_embed_reranker.json"
"""The settings of a saved re-ranker (rerank/settings.py), in whose folder there are none of an embedder."""
# The key, in that file alone, of the names of the processor's files beside it: one that got lost on the way would be
# taken from elsewhere, or done without.
PROCESSOR_FILES = "processor"
FORMAT = 1
_Parsed = TypeVar("_Parsed")
# The key of `target_space` in the file. It stays as it was first written: a new one would lose it of saved models.
_TARGET_SPACE = "finds"


@dataclass(frozen=True)
class Settings:
    """Beside the weights: what makes a vector of hidden states, and for an adapter which base it belongs to.

    Args:
        prompts: the prompt set.
        pooling, bidirectional, positions: as in `EmbeddingModel`.
        pooled, padding_side, resize, jpeg_side: as in `ItemProcessor`; `pooled` is None for what is usual with the
            pooling.
        picture_tokens: how many tokens a picture becomes by the model's token learner; None without one.
        matryoshka: the lengths at which truncated vectors were trained.
        max_tokens, truncate: as in `MLLMEmbedder.from_pretrained`.
        thoughts: how its composed queries think first; None where they do not.
        lexical: how its lexical vectors are made; None where it has none.
        renormalize: whether vectors that are cut (`dim`) are brought to unit length again.
        base, base_fingerprint: the base's name as given, and `model_fingerprint` of it; None for a whole model.
        target_space: provenance of the vectors that its queries are to find (`MLLMEmbedder.provenance` of a teacher);
            None for those that it makes itself.
        weights: of a base that is a folder, `weights_digest`; it is no part of the settings' file.
        card: the text of the model card that the weights came with; no part of it either.
        adapter, adapter_settings: sha256 of the adapter's tensors that were loaded, and what its config says of how
            they are used (identity.py), no part of the file either.
    """

    prompts: PromptSet
    pooling: Pooling = "last"
    bidirectional: bool = False
    positions: Positions = "model"
    pooled: str | None = None
    padding_side: PaddingSide = "left"
    resize: Resize | None = None
    jpeg_side: int | None = None
    picture_tokens: int | None = None
    matryoshka: tuple[int, ...] = ()
    max_tokens: int | None = None
    truncate: bool = False
    renormalize: bool = True
    thoughts: Thoughts | None = None
    lexical: Lexical | None = None
    base: str | None = None
    base_fingerprint: str | None = None
    target_space: dict[str, Any] | None = field(default=None, repr=False)
    weights: str | None = field(default=None, repr=False, compare=False)
    card: str | None = field(default=None, repr=False, compare=False)
    adapter: str | None = field(default=None, repr=False, compare=False)
    adapter_settings: dict[str, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def base_is_folder(self) -> bool:
        """Whether the base was read from a folder, by the length of its fingerprint: a commit's is shorter."""
        return len(self.base_fingerprint or "") == hashlib.sha256().digest_size * 2

    @property
    def base_revision(self) -> str | None:
        """The commit of a base that is a hub id; None for a folder, and where it is not known."""
        return None if self.base_is_folder else self.base_fingerprint or None

    def limited(self, max_tokens: int | None, truncate: bool | None) -> Settings:
        """Return the settings with what is given of the limit of an input."""
        return replace(
            self,
            max_tokens=self.max_tokens if max_tokens is None else max_tokens,
            truncate=self.truncate if truncate is None else truncate,
        )

    def reading(self, jpeg_side: int | None) -> Settings:
        """Return the settings with another `jpeg_side`: the same for None, and for 0 one that decodes JPEGs whole.

        Raises ConfigError for anything but a whole number.
        """
        if jpeg_side is not None and (type(jpeg_side) is not int or jpeg_side < 0):
            raise ConfigError(f"jpeg_side is a number of pixels, or 0 to decode JPEGs whole, not {jpeg_side!r}")
        return self if jpeg_side is None else replace(self, jpeg_side=jpeg_side or None)

    def thinking(self, tokens: int | None) -> Settings:
        """Return the settings with thoughts of so many tokens at most: the same for None, and for 0 without any.

        Raises ConfigError for anything but a whole number.
        """
        if tokens is None or (type(tokens) is int and tokens == 0):
            return self if tokens is None else replace(self, thoughts=None)
        return replace(self, thoughts=replace(self.thoughts, tokens=tokens) if self.thoughts else Thoughts(tokens))

    @property
    def recipe(self) -> dict[str, Any]:
        """What else vectors are made by, as plain JSON, where it is not as by default: so that what was written before
        there was such a setting still agrees."""
        usual = self.pooled_tokens == pooled_by_default(self.pooling)
        values = {
            "positions": self.positions,
            "pooled": None if usual else self.pooled,
            "padding_side": self.padding_side,
            "resize": self.resize and self.resize.to_dict(),
            "jpeg_side": self.jpeg_side,
            "picture_tokens": self.picture_tokens,
        }
        return {key: value for key, value in values.items() if value != _DEFAULTS[key]}

    def pooling_by(self, pooling: Pooling | None) -> Settings:
        """Return the same with another pooling, for None with its own. One vector a token is of content alone: what
        another pooling took of the prompt is left out."""
        pooling = pooling or self.pooling
        return replace(
            self, pooling=pooling, pooled=self.pooled if pooling not in MULTI or takes_content(self.pooled) else None
        )

    @property
    def pooled_tokens(self) -> str:
        """Which tokens are pooled, as `ItemProcessor` takes it."""
        return self.pooled or pooled_by_default(self.pooling)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the settings' file, as `from_dict` reads it."""
        return {
            "format": FORMAT, "pooling": self.pooling, "bidirectional": self.bidirectional, "normalize": True,
            "matryoshka": list(self.matryoshka), "prompts": self.prompts.to_dict(),
            "base": {"name": self.base, "fingerprint": self.base_fingerprint} if self.base else None,
            **self.recipe,
            **({"max_tokens": self.max_tokens} if self.max_tokens is not None else {}),
            **({"truncate": True} if self.truncate else {}),
            **({} if self.renormalize else {"renormalize": False}),
            **({"thoughts": self.thoughts.to_dict()} if self.thoughts else {}),
            **({"lexical": self.lexical.to_dict()} if self.lexical else {}),
            **({_TARGET_SPACE: self.target_space} if self.target_space else {}),
        }  # fmt: skip

    @classmethod
    def of_preset(cls, prompts: PromptSet, values: Mapping[str, Any]) -> Settings:
        """Return the settings of a model that was not saved here: a prompt set, and what else is not as by default, by
        the keys of `to_dict`.

        Raises ValueError, which names the key, as `from_dict` does, and for one that only a saved model has.
        """
        own = next((key for key in _OF_SAVED if key in values), None)
        if own:
            raise ValueError(f"{own} is of a saved model, not of a preset; leave it out")
        return cls.from_dict(
            {"format": FORMAT, "pooling": cls.pooling, "base": None, **values, "prompts": prompts.to_dict()}
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Return the settings that `to_dict` wrote.

        Raises ValueError, which names the key, for anything else: what is not understood would be left out in silence.
        """
        _check(values)
        base = values["base"] or {}
        return cls(
            prompts=PromptSet.from_dict(values["prompts"]),
            pooling=values["pooling"],
            bidirectional=values.get("bidirectional", False),
            positions=values.get("positions", "model"),
            pooled=values.get("pooled"),
            padding_side=values.get("padding_side", "left"),
            resize=Resize.from_dict(values["resize"]) if "resize" in values else None,
            jpeg_side=values.get("jpeg_side"),
            picture_tokens=values.get("picture_tokens"),
            matryoshka=tuple(values.get("matryoshka", ())),
            max_tokens=values.get("max_tokens"),
            truncate=values.get("truncate", False),
            renormalize=values.get("renormalize", True),
            thoughts=Thoughts.from_dict(values["thoughts"]) if "thoughts" in values else None,
            lexical=Lexical.from_dict(values["lexical"]) if "lexical" in values else None,
            base=base.get("name"),
            base_fingerprint=base.get("fingerprint"),
            target_space=values.get(_TARGET_SPACE),
        )


_DEFAULTS = {key.name: key.default for key in fields(Settings)}
_OF_SAVED = ("format", "base", "prompts", "picture_tokens", PROCESSOR_FILES, _TARGET_SPACE)


class _Kind(NamedTuple):
    """What the value of a key must be, to a test and in words."""

    holds: Callable[[Any], bool]
    words: str
    needed: bool = False


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.encode("utf-8", "replace").decode() == value  # no lone surrogates


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_file_names(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(name) and PurePosixPath(name).name == name for name in value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_lengths(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


_COUNT = "a whole number over 0"
_TEXT = _Kind(_is_text, "a text")
_KEYS = {
    "format": _Kind(lambda value: type(value) is int and value == FORMAT, f"{FORMAT}", True),
    "pooling": _Kind(lambda value: _is_text(value) and value in POOLINGS, f"one of {', '.join(POOLINGS)}", True),
    "bidirectional": _Kind(lambda value: isinstance(value, bool), "true or false"),
    "positions": _Kind(lambda value: value in POSITIONS, " or ".join(map(repr, POSITIONS))),
    "pooled": _TEXT,
    "padding_side": _Kind(lambda value: value in ("left", "right"), "'left' or 'right'"),
    "resize": _Kind(_is_object, "an object"),
    "jpeg_side": _Kind(_is_count, _COUNT),
    "picture_tokens": _Kind(_is_count, _COUNT),
    "normalize": _Kind(lambda value: value is True, "true: vectors have unit length"),
    "matryoshka": _Kind(_is_lengths, "a list of lengths, whole numbers over 0"),
    "max_tokens": _Kind(_is_count, _COUNT),
    "truncate": _Kind(lambda value: isinstance(value, bool), "true or false"),
    "renormalize": _Kind(lambda value: isinstance(value, bool), "true or false"),
    "thoughts": _Kind(_is_object, "an object"),
    "lexical": _Kind(_is_object, "an object"),
    "prompts": _Kind(_is_object, "an object of texts", True),
    "base": _Kind(lambda value: value is None or _is_object(value), "an object or null", True),
    _TARGET_SPACE: _Kind(_is_object, "an object"),
    PROCESSOR_FILES: _Kind(_is_file_names, "a list of file names"),
}
_BASE_KEYS = {"name": _TEXT, "fingerprint": _Kind(lambda value: value is None or _is_text(value), "a text or null")}


def _check(values: dict[str, Any]) -> None:
    """Raise ValueError for a key that is not known, or whose value is not what it must be."""
    _check_keys(values, _KEYS)
    check_pooled(values.get("pooled", ALL))
    if values["pooling"] in MULTI and not takes_content(values.get("pooled")):
        raise ValueError(f"pooled is {values['pooled']!r}, and pooling {values['pooling']} takes content alone")
    _check_keys(values["base"] or {}, _BASE_KEYS, "base.")


def _check_keys(values: Mapping[str, Any], kinds: Mapping[str, _Kind], where: str = "") -> None:
    for key, kind in kinds.items():
        if key not in values and kind.needed:
            raise ValueError(f"no {where}{key}")
        if key in values and not kind.holds(values[key]):
            raise ValueError(f"{where}{key} is {json.dumps(values[key])[:60]}, not {kind.words}")
    unknown = next((key for key in values if key not in kinds), None)
    if unknown is not None:
        raise ValueError(f"{where}{unknown} is no key of it" + did_you_mean(unknown, kinds))


def read_settings(folder: str | Path) -> Settings | None:
    """Return the settings in a folder, None where it has none.

    Raises ModelError for a damaged file or a newer format.
    """
    path = Path(folder) / SETTINGS_FILE
    values = read_object(path) if path.is_file() else saved_settings(Path(folder))
    if values is None:
        return None
    return parsed(path, values, Settings.from_dict)


def parsed(path: Path, values: dict[str, Any], parse: Callable[[dict[str, Any]], _Parsed]) -> _Parsed:
    """Return what `parse` makes of the values in a settings' file of a saved folder.

    Raises ModelError for another format, for what `parse` finds wrong, and where the folder lacks what was saved.
    """
    if values.get("format") != FORMAT:
        raise ModelError(f"{path} has format {values.get('format')}, this version reads {FORMAT}; update mllm_embed")
    try:
        found = parse(values)
    except (ValueError, ConfigError) as error:
        raise ModelError(f"{path} is damaged ({error}); save the model again") from error
    check_processor_files(path.parent, values)
    return found


def check_processor_files(folder: Path, values: Mapping[str, Any]) -> None:
    """Raise ModelError where a folder lacks a file of its processor that the content of its settings' file names."""
    for name in values.get(PROCESSOR_FILES, []):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} lacks {name}, which was saved with it; fetch or save the model again")


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a saved model.

    Raises ModelError when it holds anything else, or a key twice: which of the two is meant?
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ModelError(f"{path} is damaged ({error}); save the model again") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} is damaged (it holds no JSON object); save the model again")
    return values


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'it has the key "{twice}" twice')
    return values
