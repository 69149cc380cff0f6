"""Text that is none: half characters, which JSON and the names of files may hold and UTF-8 may not."""

from __future__ import annotations


def half_character(text: str) -> bool:
    """Return whether a text holds a lone surrogate, which JSON can write and no tokenizer reads."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def printable(text: str) -> str:
    r"""Return a text that can be written: a byte of a file's name that is no UTF-8 as \xe9, half a character as \ud83d.

    A text that is Unicode stays as it is.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
