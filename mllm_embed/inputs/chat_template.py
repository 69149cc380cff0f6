"""A model's own chat template: text from the hub, run in transformers' sandbox, and here in bounded steps.

A template that asks for today's date is told a fixed one: else no text would have the same vector tomorrow.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ..errors import ModelError, first_line

_MOST_STEPS = 2_000_000  # lines of Python; a real template takes some hundreds
_DATE = "26 Jul 2024"  # where it is not known, Llama 3.2's template says this
_FIXED_DATE = f"{{% macro strftime_now(format) %}}{_DATE}{{% endmacro %}}{{{{ '' }}}}"


class _TooManySteps(Exception):
    """A template that does not end."""


def template_of(processor: Any) -> str | None:
    """Return the chat template of a processor, or a tokenizer, as it is used; None where it has none."""
    template = getattr(processor, "chat_template", None)
    if isinstance(template, Mapping):  # of several, for tools say, by their names
        template = template.get("default")
    if template and "strftime_now" in template:
        template = _FIXED_DATE + template
    return template or None


def render_chat(
    processor: Any, messages: Sequence[Mapping[str, Any]], template: str | None = None, **values: Any
) -> str:
    """Return messages as a chat template puts them to the model, by default that of the processor or tokenizer.

    Raises ModelError, which names the model, for a template that has an error, refuses the messages, or does not end.
    """
    from jinja2 import TemplateError

    try:
        with _bounded():
            # by the tokenizer, since SmolVLM's processor asks its video processor first
            return getattr(processor, "tokenizer", processor).apply_chat_template(
                list(messages), chat_template=template or template_of(processor), tokenize=False, **values
            )
    except _TooManySteps as error:
        raise ModelError(
            f"the chat template of {_name(processor)} does not end; mend its chat_template.jinja"
        ) from error
    except (
        TemplateError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError,
    ) as error:  # fmt: skip
        raise ModelError(
            f"the chat template of {_name(processor)} fails ({first_line(error)}); mend its chat_template.jinja"
        ) from error


def _name(processor: Any) -> str:
    return getattr(getattr(processor, "tokenizer", processor), "name_or_path", "") or "this model"


@contextmanager
def _bounded() -> Iterator[None]:
    """Let this thread run so many lines of Python within, whatever they do; it then raises _TooManySteps."""
    left = _MOST_STEPS

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise _TooManySteps
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)
