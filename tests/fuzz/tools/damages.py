"""What happens to bytes and to JSON on their way: flipped bits, cuts, wrong types, doubled keys. All from a seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

Bytes = Callable[[bytes, random.Random], bytes]


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    out = bytearray(data)
    out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _flips(data: bytes, rng: random.Random) -> bytes:
    for _ in range(20):
        data = _flip(data, rng)
    return data


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(max(len(data), 1))
    return start, min(len(data), start + rng.randint(1, max(2, len(data) // 4)))


def _zeros(data: bytes, rng: random.Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + bytes(stop - start) + data[stop:]


def _gap(data: bytes, rng: random.Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + data[stop:]


def _twice(data: bytes, rng: random.Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:stop] + data[start:stop] + data[stop:]


def _noise(data: bytes, rng: random.Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + rng.randbytes(stop - start) + data[stop:]


def _swap(data: bytes, rng: random.Random) -> bytes:
    a, b, c = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


DAMAGES: dict[str, Bytes] = {
    "a bit": _flip,
    "twenty bits": _flips,
    "zeros": _zeros,
    "a gap": _gap,
    "a piece twice": _twice,
    "noise": _noise,
    "pieces swapped": _swap,
    "cut": lambda data, rng: data[: rng.randrange(len(data))] if data else data,
    "cut late": lambda data, rng: data[: -rng.randint(1, 16)],
    "cut early": lambda data, rng: data[: rng.randint(1, 40)],
    "junk behind": lambda data, rng: data + rng.randbytes(20),
    "words behind": lambda data, rng: data + b" junk",
    "junk before": lambda data, rng: rng.randbytes(3) + data,
    "empty": lambda data, rng: b"",
    "only noise": lambda data, rng: rng.randbytes(200),
    "itself twice": lambda data, rng: data + data,
    "nul": lambda data, rng: data[: (at := rng.randrange(len(data) + 1))] + b"\0" + data[at:],
}
CUTS = ("cut", "cut late", "cut early", "empty", "only noise")
TEXTS: dict[str, Bytes] = {
    "a byte order mark": lambda data, rng: b"\xef\xbb\xbf" + data,
    "utf-16": lambda data, rng: data.decode(errors="replace").encode("utf-16"),
    "latin-1 letters": lambda data, rng: _inside(data, rng, b"caf\xe9"),
    "a lone surrogate's bytes": lambda data, rng: _inside(data, rng, b"\xed\xa0\x80"),
    "carriage returns": lambda data, rng: data.replace(b"\n", b"\r\n"),
    "old carriage returns": lambda data, rng: data.replace(b"\n", b"\r"),
    "a quote": lambda data, rng: _inside(data, rng, b'"'),
    "a line break": lambda data, rng: _inside(data, rng, b"\n"),
    "deep": lambda data, rng: b"[" * 100_000,
}


def _inside(data: bytes, rng: random.Random, piece: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + piece + data[at:]


def damaged(data: bytes, name: str, seed: int) -> bytes:
    """Return data with a damage of DAMAGES or TEXTS, the same for one seed."""
    return {**DAMAGES, **TEXTS}[name](data, random.Random(f"{name} {seed}"))


MISFITS: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "0": 0,
    "-1": -1,
    "1.5": 1.5,
    "1e308": 1e308,
    "a huge number": 10**30,
    "nan": float("nan"),
    "infinity": float("inf"),
    "no words": "",
    "'no'": "no",
    "'1'": "1",
    "a surrogate": "\ud800",
    "the letter nul": "\0",
    "a list": [],
    "an object": {},
    "a list of lists": [[1], [[2]]],
    "an odd object": {"odd": [None]},
    "a long text": "x" * 50_000,
}
"""Values that stand in the place of another one."""


def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the ways to all values of a tree of dicts and lists, but for the tree itself."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found = []
    for key, value in inner:
        found += [(*at, key), *places(value, (*at, key))]
    return found


def misfit(tree: Any, name: str, seed: int) -> tuple[Any, str]:
    """Return a copy of a tree with a value of MISFITS in the place of one of its own, and where.

    The value is of another type than the one whose place it takes; a tree without such a place stays as it is.
    """
    rng, value = random.Random(f"{name} {seed}"), MISFITS[name]
    other = [way for way in places(tree) if _kind(value) != _kind(_at(tree, way))]
    return (changed(tree, way := rng.choice(other), value), shown(way)) if other else (tree, "nowhere")


def _kind(value: Any) -> type:
    """Return the type of a JSON value, of which all numbers have one."""
    return float if type(value) is int else type(value)


def dropped(tree: Any, seed: int) -> tuple[Any, str]:
    """Return a copy of a tree without one of the keys of its objects, and which."""
    rng, out = random.Random(seed), copy.deepcopy(tree)
    ways = [way for way in places(tree) if isinstance(way[-1], str)]
    if not ways:
        return tree, "nowhere"
    way = rng.choice(ways)
    del _at(out, way[:-1])[way[-1]]
    return out, shown(way)


def doubled_key(tree: dict[str, Any], seed: int) -> tuple[str, str]:
    """Return the JSON of a tree in which one of its keys stands twice, first with null, and which."""
    key = random.Random(seed).choice(list(tree))
    return "{" + json.dumps(key) + ": null, " + json.dumps(tree)[1:], key


def changed(tree: Any, way: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of a tree with another value at a place."""
    out = copy.deepcopy(tree)
    _at(out, way[:-1])[way[-1]] = value
    return out


def shown(way: tuple[Any, ...]) -> str:
    """Return a place in words."""
    return ".".join(map(str, way))


def _at(tree: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        tree = tree[key]
    return tree
