"""The library's few error types: each message is one sentence that names the file, row or value, and the cure."""

from __future__ import annotations

import difflib
import functools
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_LONGEST = 300  # characters of another library's words, which may hold a whole file


class MLLMEmbedError(Exception):
    """A mistake that the user can mend; the base of all errors that the library raises on purpose."""


class ImageError(MLLMEmbedError):
    """A picture that cannot be read."""


class DataError(MLLMEmbedError):
    """A file, row or input that is not as documented."""


class TooLongError(DataError):
    """An input of more tokens than a model takes."""


class InputError(DataError):
    """A value to search with or to add that cannot be taken; its message names no path and no address."""


class UnknownIdError(DataError):
    """An id that a gallery has not got."""

    def __init__(self, message: str, id: str):
        """Say so of an id."""
        super().__init__(message)
        self.id = id

    def __reduce__(self) -> tuple[type[UnknownIdError], tuple[str, str]]:
        """Return how it comes to another process."""
        return type(self), (str(self), self.id)


class UnreachableError(DataError):
    """A server that cannot be reached or used, which is no fault of what was asked of it."""


class ConfigError(MLLMEmbedError):
    """A setting that does not exist or does not fit the others."""


class ModelError(MLLMEmbedError):
    """A model or adapter that cannot be loaded or does not fit."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about a word that is none of the known ones; empty where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def kind_of(value: object) -> str:
    """Return what a message calls the type of a value, with its article: "an int", "a list"."""
    return with_article(type(value).__name__)


def with_article(noun: str) -> str:
    """Return a noun after "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiouAEIOU' else 'a'} {noun}"


def first_line(error: BaseException) -> str:
    """Return the first line of what another library's error says, with its kind where that alone says nothing."""
    said = next(iter(str(error).strip().splitlines()), "")[:_LONGEST]
    plain = isinstance(error, LookupError) or not said
    return f"{type(error).__name__}: {said}".removesuffix(": ") if plain else said


def reason(error: BaseException) -> str:
    """Return why something failed, in one line that is never empty: an OSError's own words, or the first line."""
    return (isinstance(error, OSError) and error.strerror) or first_line(error)


def user_errors(main: Callable[..., int]) -> Callable[..., int]:
    """Make a `main` end with one sentence and exit code 2 on a user's mistake or a failing disk, 130 on Ctrl-C."""

    @functools.wraps(main)
    def guarded(*args: Any, **kwargs: Any) -> int:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is shown escaped
                stream.reconfigure(errors="backslashreplace")
        try:
            _check_words(sys.argv[1:] if args[:1] in ((), (None,)) else args[0])
            return main(*args, **kwargs)
        except (MLLMEmbedError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130

    return guarded


def _check_words(words: Sequence[str]) -> None:
    """Raise ConfigError for a word of a command line that is empty.

    It is a variable of the shell that was never set. Taken as it is, it would be the working folder, or as if the
    option had not been given.
    """
    if "" in words:
        before = words[: words.index("")][-1:]
        where = f"after {before[0]}" if before else "at the start"
        raise ConfigError(
            f"a word of the command line is empty, {where}: is a variable not set? Leave it out, or give it"
        )
