"""What the field's APIs call an input: a text, an object of text and image, a list of parts, or a conversation.

Each becomes a `Draft`: words, and addresses of pictures that are still to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

from ...errors import did_you_mean, kind_of
from ..refusals import Refusal

_KEYS = ("text", "image", "instruction", "task", "content")
_TOKENS = (
    "holds numbers, the tokens of another model: send the text itself "
    "(LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False)"
)
_MOST = 256  # parts, pictures or messages of one input
_LONGEST = 2048  # characters of an address
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_SHOWN = 60  # characters of a key that is not known
_TASK_ROLES = ("system", "developer")
_FORMS = "give a text, or an object with any of text, image, instruction, task, or with content, a list of parts"


@dataclass(frozen=True)
class Draft:
    """An input before its pictures are read.

    Args:
        field: where in the request it stands, "input[3]".
        pictures: of each its address, data URI or base64, and where in the request it stands.
        text, instruction, task: its words, None where it has none.
    """

    field: str
    pictures: tuple[tuple[str, str], ...] = ()
    text: str | None = None
    instruction: str | None = None
    task: str | None = None

    @property
    def words(self) -> dict[str, str]:
        """All of its words, by what they are."""
        given = {"text": self.text, "instruction": self.instruction, "task": self.task}
        return {name: words for name, words in given.items() if words is not None}


def draft_of(value: Any, where: str, keys: Sequence[str] = _KEYS) -> Draft:
    """Return one input, which as an object has no others than some keys. Raises Refusal 422, with the place, for what
    is none."""
    if isinstance(value, str):
        return _words(value, where)
    if isinstance(value, list) and value and is_message(value[0]):
        return conversation(value, where)
    check_no_tokens(value, where)
    if not isinstance(value, Mapping):
        raise Refusal(422, f"{where} is {kind_in_json(value)}; {_FORMS}", field=where)
    _check_keys(value, keys, where)
    if value.get("content") is not None:
        return _with_content(value, where)
    text, instruction, task = (_text(value, key, where) for key in ("text", "instruction", "task"))
    return Draft(where, _pictures(value.get("image"), f"{where}.image"), text, instruction, task)


def check_no_tokens(value: Any, where: str) -> None:
    """Raise Refusal 422 for numbers, which OpenAI's clients send in the place of a text they have tokenised."""
    if type(value) is int or (isinstance(value, list) and value and type(value[0]) is int):
        raise Refusal(422, f"{where} {_TOKENS}", field=where)


def _words(value: str, where: str) -> Draft:
    """Return the input that a text is. Raises Refusal 422 for a picture's address, which an object's text may be."""
    if _names_a_picture(value):
        told = (
            f"{where} is the address of a picture, given as a text; give {{'image': ...}}, or {{'text': ...}} if it is"
        )
        raise Refusal(422, told, field=where)
    return Draft(where, text=value)


def _names_a_picture(text: str) -> bool:
    """Whether a text is no more than the address of a picture."""
    start = text[:_SHOWN].lstrip().lower()
    if not start.startswith(("http://", "https://")):
        return start.startswith("data:image/")
    if len(text) > _LONGEST or len(text.split()) > 1:
        return False
    return text.strip().partition("?")[0].partition("#")[0].lower().endswith(_ENDINGS)


class _Message(NamedTuple):
    """A message of a conversation: whose it is, where it stands, and what it says."""

    role: str
    where: str
    says: Draft

    @property
    def is_no_more_than_a_start(self) -> bool:
        """Whether it is an empty message of the assistant, which some clients send for the model to go on from."""
        return self.role == "assistant" and not self.says.text and not self.says.pictures


def conversation(messages: Any, where: str) -> Draft:
    """Return the input that a conversation is: what its one user message holds, and its system message as the task.

    An empty message of the assistant may end it. Raises Refusal 422 for more than that.
    """
    if not isinstance(messages, list) or not messages:
        raise Refusal(422, f"{where} is no list of messages; give one with the role user", field=where)
    _check_parts(messages, where)
    left = [_message(message, f"{where}[{place}]") for place, message in enumerate(messages)]
    task = left.pop(0).says.text if left[0].role in _TASK_ROLES else None
    if len(left) > 1 and left[-1].is_no_more_than_a_start:
        left.pop()
    if not left:
        raise Refusal(422, f"{where} has no message of the user", field=where)
    odd = next((message for place, message in enumerate(left) if place or message.role != "user"), None)
    if odd is not None:
        raise Refusal(
            422,
            f"{odd.where} is one too many: an input is one message of the user, after one system message that is its "
            "task or none; send several conversations as a list of lists",
            field=odd.where,
        )
    return replace(left[0].says, field=where, task=task)


def _message(message: Any, where: str) -> _Message:
    if not is_message(message):
        raise Refusal(422, f"{where} is no message: give role and content", field=where)
    _check_keys(message, ("role", "content"), where)
    says = _parts(message.get("content"), f"{where}.content")
    if message["role"] in _TASK_ROLES and says.pictures:
        raise Refusal(422, f"{where} shows the task as a picture; a task is words", field=where)
    return _Message(message["role"], where, says)


def _with_content(value: Mapping[str, Any], where: str) -> Draft:
    """Return the input of an object with a list of parts."""
    if value.get("text") is not None or value.get("image") is not None:
        raise Refusal(422, f"{where} has both content and text or image; put them into content", field=where)
    draft = _parts(value["content"], f"{where}.content")
    task, instruction = _text(value, "task", where), _text(value, "instruction", where)
    return replace(draft, field=where, task=task, instruction=instruction)


@dataclass
class _Spoken:
    """What parts say, as it comes in."""

    texts: list[str] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)


def _parts(content: Any, where: str) -> Draft:
    """Return what a text or a list of parts says: its pictures in order, and its texts, a line each.

    Where pictures stand among the words is for the model's prompt to say. Raises Refusal 422.
    """
    if content is None or isinstance(content, str):
        return Draft(where, text=content or None)
    if not isinstance(content, list):
        raise Refusal(422, f"{where} is {kind_in_json(content)}; give a text or a list of parts", field=where)
    _check_parts(content, where)
    spoken = _Spoken()
    for place, part in enumerate(content):
        at = f"{where}[{place}]"
        if isinstance(part, str):
            spoken.texts.append(part)
            continue
        read = _PARTS.get(str(part.get("type"))) if isinstance(part, Mapping) else None
        if read is None:
            raise Refusal(422, f"{at} is no part: give {{'type': ...}} of {', '.join(_PARTS)}", field=at)
        read(part, at, spoken)
    return Draft(where, tuple(spoken.pictures), "\n".join(spoken.texts) if spoken.texts else None)


def _text_part(part: Mapping[str, Any], where: str, spoken: _Spoken) -> None:
    _check_keys(part, ("type", "text"), where)
    words = _text(part, "text", where)
    if words is None:
        raise Refusal(422, f"{where}.text is missing; give words", field=f"{where}.text")
    spoken.texts.append(words)


def _url_part(part: Mapping[str, Any], where: str, spoken: _Spoken) -> None:
    _check_keys(part, ("type", "image_url", "uuid"), where)
    spoken.pictures.append(_needed(part.get("image_url"), f"{where}.image_url"))


def _base64_part(part: Mapping[str, Any], where: str, spoken: _Spoken) -> None:
    _check_keys(part, ("type", "image_base64"), where)
    spoken.pictures.append(_needed(part.get("image_base64"), f"{where}.image_base64"))


_Read: TypeAlias = Callable[[Mapping[str, Any], str, _Spoken], None]
_PARTS: dict[str, _Read] = {"text": _text_part, "image_url": _url_part, "image_base64": _base64_part}


def _needed(value: Any, where: str) -> tuple[str, str]:
    if value is None:
        raise Refusal(422, f"{where} is missing; give a data URI or an address", field=where)
    return address_of(value, where), where


def _pictures(value: Any, where: str) -> tuple[tuple[str, str], ...]:
    """Return the address and the place of each picture of one or a list of them, each bare or as {"url"}."""
    if value is None:
        return ()
    if isinstance(value, list):
        if not value:
            raise Refusal(422, f"{where} is an empty list; give pictures, or leave it out", field=where)
        _check_parts(value, where)
        return tuple((address_of(one, f"{where}[{place}]"), f"{where}[{place}]") for place, one in enumerate(value))
    return ((address_of(value, where), where),)


def address_of(value: Any, where: str) -> str:
    """Return what says which picture is meant: an address, a data URI or base64."""
    if isinstance(value, Mapping):
        _check_keys(value, ("url", "detail"), where)
        if value.get("detail") not in (None, "auto"):
            raise Refusal(
                422, f"{where}.detail can only be 'auto': the model says how large a picture is read", field=where
            )
        value, where = value.get("url"), f"{where}.url"
    if not isinstance(value, str) or not value:
        raise Refusal(422, f"{where} is {kind_in_json(value)}; give a picture as a data URI or an address", field=where)
    return value


def _text(value: Mapping[str, Any], key: str, where: str) -> str | None:
    words = value.get(key)
    if words is None or isinstance(words, str):
        return words
    raise Refusal(422, f"{where}.{key} is {kind_in_json(words)}; give words", field=f"{where}.{key}")


def _check_parts(values: Sequence[Any], where: str) -> None:
    if len(values) > _MOST:
        raise Refusal(422, f"{where} holds {len(values):,} parts, over the limit of {_MOST} of an input", field=where)


def is_message(value: Any) -> bool:
    """Return whether a value is a message of a conversation, as far as its role tells."""
    return isinstance(value, Mapping) and "role" in value


def _check_keys(value: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raise Refusal 422 for a key that is not known: ignored, it would change a vector unnoticed."""
    for key in value:
        if key not in known and value[key] is not None:
            hint = did_you_mean(key[:_SHOWN], known) or f"; the keys are {', '.join(known)}"
            raise Refusal(
                422, f"{where} has a key '{key[:_SHOWN]}', which is not known{hint}", field=f"{where}.{key[:_SHOWN]}"
            )


_KINDS = {"str": "a text", "dict": "an object", "bool": "true or false", "NoneType": "null", "float": "a number"}


def kind_in_json(value: Any) -> str:
    """Return the type of a value in JSON's words, with its article."""
    if value == "":
        return "empty"
    return _KINDS.get(type(value).__name__) or kind_of(value)
