"""A page as one HTML file: the page's own files, its data, and its thumbnails, and nothing that lies elsewhere.

The file asks nobody for anything: its policy (Content-Security-Policy) lets run its own script and style alone, by
their digests, and shows pictures that it holds itself. The data are JSON in an element that no browser runs, and the
script makes text of them, never markup: an instruction or an id may be anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from mllm_embed import serve
from mllm_embed.errors import DataError, reason
from mllm_embed.files import parse_json, read_text, write_file

FOLDER = Path(__file__).with_name("page")
SHARED = Path(serve.__file__).with_name("page")  # the page to search with, whose look and elements these have
REPORT = "report.html"
VERSION = 1  # of the data
_DATA = '<script type="application/json" id="data">'
_THUMBNAILS = '<script type="text/plain" id="thumbnails">'
_END = "</script>"
_IMPORT = re.compile(r'^import \{ .* \} from "\./(.*)";\n', re.MULTILINE)
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def write_page(path: Path, data: dict[str, Any], thumbnails: Sequence[str]) -> Path:
    """Write a page; an older one is replaced in one step.

    Args:
        path: the HTML file.
        data: what the script shows, plain values for JSON.
        thumbnails: files in base64.

    Raises:
        DataError: it cannot be written.
    """
    style, script = _file("look.css") + _file("page.css"), _script("page.js")
    page = Template(_file("index.html")).substitute(
        style=style,
        style_digest=_digest(style),
        script=script,
        script_digest=_digest(script),
        data=f"{_DATA}{_json({**data, 'version': VERSION, 'thumbnails': list(map(len, thumbnails))})}{_END}",
        thumbnails=f"{_THUMBNAILS}{''.join(thumbnails)}{_END}",
    )
    write_file(path, page.encode())
    return path


def read_page(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the data of a page and its thumbnails, as they were given to `write_page`.

    Raises:
        DataError: the file cannot be read, or is no page of this version.
    """
    cure = "run `mllm-embed-eval run` or `score` again"
    try:
        text = read_text(path)
        data = parse_json(_between(text, _DATA))
        if data["version"] != VERSION:
            raise ValueError(f"its data are of version {data['version']}, not {VERSION}")
        files, start = [], 0
        together = _between(text, _THUMBNAILS)
        for length in data["thumbnails"]:
            files.append(together[start : start + length])
            start += length
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason(error)}): {cure}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is no page of this version ({error}): {cure}") from error
    return data, files


def _between(text: str, start: str) -> str:
    """Return an element's content. Raises ValueError where there is none."""
    begin = text.index(start) + len(start)
    return text[begin : text.index(_END, begin)]


def _json(data: Any) -> str:
    """Return JSON that is no markup, whatever is in it, and names no address that a browser could take for one."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace("&", "\\u0026").replace("://", ":\\/\\/")
    # half a character, which the name of a file may have, is no UTF-8
    return _HALF_CHARACTER.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _file(name: str) -> str:
    own = FOLDER / name
    return (own if own.is_file() else SHARED / name).read_text(encoding="utf-8")


@cache
def _script(name: str) -> str:
    """Return a module and all that it imports as one script, each after what it needs: a file can import no other."""
    order: dict[str, None] = {}
    _visit(name, order)
    modules = (_IMPORT.sub("", _file(module)) for module in order)
    text = "\n".join(re.sub(r"^export ", "", module, flags=re.MULTILINE) for module in modules)
    return f'"use strict";\n{{\n{text}}}\n'


def _visit(name: str, order: dict[str, None]) -> None:
    for other in _IMPORT.findall(_file(name)):
        if other not in order:
            _visit(other, order)
    order[name] = None
