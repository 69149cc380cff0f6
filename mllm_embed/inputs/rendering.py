"""Prompts written out: the words in their frame, a model's chat template or a text, with a placeholder a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..errors import ConfigError, ModelError
from .chat_template import render_chat, template_of
from .prompts import CHAT, CHAT_TEXT, IMAGE, NONE, PROMPT, SYSTEM, PromptSet, ResolvedPrompt, Slot

_FIRST, _LAST = "\ufdd0", "\ufdd1"  # which no template writes of itself


@dataclass(frozen=True)
class FilledPrompt:
    """A prompt with an item's words in it.

    Args:
        text: as the processor takes it, with a placeholder for each picture.
        tokens: as the tokenizer alone makes them; a picture's placeholder counts as one.
    """

    text: str
    tokens: tuple[int, ...]


def render(processor: Any, prompts: PromptSet, slot: Slot, images: int = 1, tasked: bool = False) -> str:
    """Return a prompt's full model input as text, with the marks where the user's words go and a placeholder a picture.

    Args:
        processor: the model's.
        prompts, slot: the set, and which of its prompts.
        images: how many pictures.
        tasked: whether there is a task, whose mark stands in it then.

    Raises ModelError for a chat template that is missing or fails, or does not put words and system message into its
    text as they are, and a placeholder for each picture where the words have it.
    """
    prompt = prompts.prompt(slot).with_task(prompts.task_form if tasked else None)
    text = _framed(processor, prompt, images)
    _check_whole(processor, prompt, images, text, prompts.name)
    if images and prompt.template == CHAT and template_of(processor):
        _check_place(processor, prompt, images, prompts.name)
    return text


def render_each(processor: Any, prompt: ResolvedPrompt) -> str:
    """Return a prompt's full model input as text, one picture at each `{image}` in its words.

    Raises ModelError for a chat template that is missing or fails, leaves out or changes any of the words, or puts
    pictures elsewhere.
    """
    if prompt.template == CHAT and template_of(processor):
        texts = [[{"type": "text", "text": text}] if text else [] for text in prompt.words.split(IMAGE)]
        content = texts[0] + [part for text in texts[1:] for part in ({"type": "image"}, *text)]
        text = _messages(processor, prompt, content) + prompt.append
    else:
        frame = replace(prompt, template=NONE) if prompt.template == CHAT else prompt
        text = _framed(processor, frame, 1)
    end = 0
    for number, part in enumerate(prompt.words.split(IMAGE)):
        start = text.find(part, end + (number > 0))  # in between there is a placeholder
        if start < 0:
            raise ModelError(
                f"the chat template leaves out, changes or moves {part[:60]!r}, or the pictures around it; give the "
                f"prompt a template of its own: {text[:80]!r}"
            )
        end = start + len(part)
    if prompt.system not in text:
        raise ModelError(f"the chat template leaves out the system message {prompt.system[:60]!r}; leave it out")
    return text


def _check_whole(processor: Any, prompt: ResolvedPrompt, images: int, text: str, name: str) -> None:
    """Raise ModelError for a text of a prompt that lacks any of it, or a place for a picture."""
    lost = next((mark for mark in prompt.marks if text.count(mark) != 1), None)
    if lost:  # all words would have one vector
        raise ModelError(f"the chat template leaves out, or repeats, the {lost} of a prompt; mend it: {text[:80]!r}")
    if images and text == _framed(processor, prompt, images - 1):  # by what a family calls one, it is not seen
        raise ModelError(f"the chat template has no place for picture {images}; mend it: {text[:80]!r}")
    changed = next((part for part in (prompt.system, *prompt.words.split(IMAGE)) if part not in text), None)
    if changed is not None:
        raise ModelError(
            f"the template leaves out, or changes, {changed[:60]!r} of the prompts '{name}'; leave that "
            f"out of them, or give them a template of their own: {text[:80]!r}"
        )


def _check_place(processor: Any, prompt: ResolvedPrompt, images: int, name: str) -> None:
    """Raise ModelError for a chat template that puts pictures elsewhere than between the words where they are to be:
    some put them first, wherever they stand in a message."""
    before, _, after = prompt.words.rpartition(IMAGE)
    first, last = (mark_of if part else "" for part, mark_of in ((before, _FIRST), (after, _LAST)))
    probe = replace(prompt, words=first + IMAGE + last)
    try:
        one, more = (_framed(processor, probe, count) for count in (images, images + 1))
    except ModelError:  # of a template that takes no more
        return
    start, end = one.find(first) + len(first), len(one) - one.find(last) if last else 0
    # up to where they stand, and from there on, both are alike
    if not (one[:start] == more[:start] and one[len(one) - end :] == more[len(more) - end :]):
        raise ModelError(
            f"the chat template puts pictures elsewhere than the prompts '{name}' do in {prompt.words[:60]!r}; put "
            f"{IMAGE} where it has them, or give the prompts a template of their own"
        )


def begins_itself(processor: Any, text: str) -> bool:
    """Return whether a text writes the start token itself, and must not get a second one from the tokenizer."""
    bos = processor.tokenizer.bos_token
    return bool(bos) and text.startswith(bos)


def check_beginning(processor: Any, text: str, other: str, slot: Slot) -> None:
    """Raise ConfigError for a rendered prompt that writes the start token where the `other`, for texts, does not, or
    the other way round: what is in one batch is begun alike."""
    if begins_itself(processor, text) == begins_itself(processor, other):
        return
    tokenizer = processor.tokenizer
    if tokenizer(_LAST)["input_ids"] != tokenizer(_LAST, add_special_tokens=False)["input_ids"]:
        raise ConfigError(
            f"of the prompts for {slot} and for text one begins with {tokenizer.bos_token}, which this model's "
            "tokenizer puts before the other; let both begin alike"
        )


def chat(processor: Any, words: str, images: int = 0) -> str:
    """Return a user's turn of so many pictures and words, as the processor's chat template puts it to the model."""
    if not template_of(processor):
        return _pictures_first(processor, words, images)
    prompt = ResolvedPrompt("", template=CHAT, system="", generation_prompt=True, append="", picture=None)
    # they are a user's, whose own mark of a picture names no place
    return _messages(processor, prompt, _content(IMAGE + words, images))


def _framed(processor: Any, prompt: ResolvedPrompt, images: int) -> str:
    return _FRAMES.get(prompt.template, _literal)(processor, prompt, images) + prompt.append


def _chat(processor: Any, prompt: ResolvedPrompt, images: int) -> str:
    """Return the model's own chat template around words and pictures; of a model without one the words, behind the
    pictures and a line break where no place is named for them."""
    if template_of(processor):
        return _messages(processor, prompt, _content(prompt.words, images))
    if IMAGE in prompt.words:
        return _none(processor, prompt, images)
    return _pictures_first(processor, prompt.words, images)


def _pictures_first(processor: Any, words: str, images: int) -> str:
    return f"{processor.image_token * images}\n{words}" if images else words


def _content(words: str, images: int) -> list[dict[str, str]]:
    """Return the parts of a message: pictures where the words have their mark, or else first."""
    before, mark, after = words.partition(IMAGE)
    texts = (before, after) if mark else ("", words)
    parts = [{"type": "text", "text": text} if text else {} for text in texts]
    return list(filter(None, [parts[0], *[{"type": "image"}] * images, parts[1]]))


def _chat_text(processor: Any, prompt: ResolvedPrompt, images: int) -> str:
    """Return the model's own chat template around one text, which holds the placeholders of the pictures."""
    if not template_of(processor):
        raise ModelError("these prompts are put into the model's chat template, and it has none; save it with one")
    return _messages(processor, prompt, _none(processor, prompt, images))


def _messages(processor: Any, prompt: ResolvedPrompt, content: Any) -> str:
    system: Any = prompt.system if isinstance(content, str) else [{"type": "text", "text": prompt.system}]
    messages = [{"role": "system", "content": system}] if prompt.system else []
    messages.append({"role": "user", "content": content})
    return render_chat(processor, messages, add_generation_prompt=prompt.generation_prompt)


def _none(processor: Any, prompt: ResolvedPrompt, images: int) -> str:
    """Return the words alone, with the pictures in their place."""
    return prompt.words.replace(IMAGE, (prompt.picture or processor.image_token) * images if images else "")


def _literal(processor: Any, prompt: ResolvedPrompt, images: int) -> str:
    """Return a text around system message and words."""
    words = _none(processor, prompt, images)
    before, _, after = prompt.template.partition(PROMPT)
    return "".join((before.replace(SYSTEM, prompt.system), words, after.replace(SYSTEM, prompt.system)))


_FRAMES = {CHAT: _chat, CHAT_TEXT: _chat_text, NONE: _none}
