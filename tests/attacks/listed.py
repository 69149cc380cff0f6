"""The attacks: what is sent, and what must come back. Those that were reported against other servers say where."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass

from .picture_host import METADATA, png
from .pictures import broken, claiming, data_uri, many_frames, many_png_frames, polyglot
from .target import KEY, LIMITS, Answer, Target

Send = Callable[[Target], Answer]
JSON = {"Content-Type": "application/json"}
_SPELLINGS = ("2130706433", "0177.0.0.1", "0x7f.0.0.1", "0x7f000001", "127.1", "127.0.1")
FOREIGN = "does not fetch from"
_HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_KEY = f"Authorization: Bearer {KEY}\r\n".encode()


@dataclass(frozen=True)
class Attack:
    """An attack: its name in the table, how it is sent, the status that it must get, and words of the answer."""

    group: str
    name: str
    send: Send
    status: int
    words: str


def _image(address: str) -> Send:
    return lambda target: target.embed(address.replace("PORT", str(target.sinkhole.port)))


def _picture(content: bytes, kind: str = "image/png") -> Send:
    return _image(data_uri(content, kind))


def _body(content: bytes, **headers: str) -> Send:
    sent = {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return lambda target: target.ask("POST", "/v1/embeddings", content=content, headers=sent)


def _input(value: object, **fields: object) -> Send:
    return lambda target: target.post("/v1/embeddings", {"input": value, **fields})


def _get(path: str, **headers: str) -> Send:
    return lambda target: target.ask("GET", path, headers=headers)


def _as_it_stands(path: str, keyed: bool = False) -> Send:
    """Ask for a path that an ordinary client would make a shorter one of."""
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    return lambda target: target.raw(head, keyed)


def _search(**fields: object) -> Send:
    return lambda target: target.post("/v1/search", fields)


def _keyed(path: str = "/v1/models", **headers: str) -> Send:
    return lambda target: target.ask("GET", path, base=target.keyed_url, headers=headers)


def _upload(name: str, content: bytes) -> Send:
    form = {"request": (None, "{}"), "image": (name, content, "image/png")}
    return lambda target: target.ask("POST", "/v1/search", files=form)


def _spelt(target: Target) -> Answer:
    """Return what other spellings of this machine's address are answered: the answer that is not as the others."""
    answers = [_image(f"http://{host}:PORT/")(target) for host in _SPELLINGS]
    return next((answer for answer in answers if FOREIGN not in answer.text), answers[0])


def _endless(target: Target) -> Answer:
    piece = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    return target.raw(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + piece * 66)


def _deep(levels: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def _row(target: Target, name: str, image: str | None = None) -> Answer:
    row = {"id": name, "image": image or data_uri(png(32, 32, "white"))}
    return target.post("/v1/gallery/rows", {"rows": [row]})


def _stray(target: Target) -> Answer:
    form = {"json": (None, '{"k": 1}'), "image": ("x.png", png(32, 32), "image/png")}
    return target.ask("POST", "/v1/search", files=form)


def _group(group: str, *attacks: tuple[str, Send, int, str]) -> list[Attack]:
    return [Attack(group, *attack) for attack in attacks]


ATTACKS = [
    *_group(
        "addresses of pictures",
        ("a cloud's metadata (CVE-2025-6242, sglang#17269)", _image(METADATA), 422, FOREIGN),
        ("this machine", _image("http://127.0.0.1:PORT/"), 422, FOREIGN),
        ("this machine as one number, octal, hexadecimal, short", _spelt, 422, FOREIGN),
        ("this machine in IPv6, mapped", _image("http://[::ffff:127.0.0.1]:PORT/"), 422, FOREIGN),
        ("localhost, although allowed by name", _image("http://localhost:PORT/"), 422, "private"),
        ("an allowed name that leads inside", _image("http://inside.example.org/a.png"), 422, "private"),
        ("one of whose two addresses is inside", _image("http://half-inside.example.org/a.png"), 422, "private"),
        ("that leads to metadata", _image("http://metadata.example.org/a.png"), 422, "private"),
        ("inside, mapped into IPv6", _image("http://mapped.example.org/a.png"), 422, "private"),
        ("inside, behind NAT64", _image("http://translated.example.org/a.png"), 422, "private"),
        (
            "a name that leads inside the second time (LLaMA-Factory#10646)",
            _image("http://rebinding.example.org/picture.png"), 200, "embedding",
        ),
        ("a redirect to metadata (vllm#57157)", _image("http://images.example.org/to-metadata"), 422, "redirect"),
        ("a redirect to this machine", _image("http://images.example.org/to-elsewhere"), 422, "redirect"),
        ("another port of an allowed host", _image("http://images.example.org:6379/"), 422, FOREIGN),
        ("a look-alike of an allowed host", _image("http://images.example.org.evil.net/"), 422, FOREIGN),
        ("a name and password", _image("http://a:b@images.example.org/picture.png"), 422, "no picture"),
        ("two hosts around an @", _image("http://images.example.org@127.0.0.1:PORT/"), 422, "no picture"),
        ("two hosts around a backslash", _image("http://127.0.0.1:PORT\\@images.example.org/"), 422, "no picture"),
        ("two hosts around a #", _image("http://127.0.0.1:PORT#@images.example.org/"), 422, FOREIGN),
        ("a second request behind a line break", _image("http://images.example.org/\r\nX: y"), 422, "no picture"),
        ("dots that are no dots", _image("http://images\u3002example\u3002org/picture.png"), 422, "no picture"),
        ("file:", _image("file:///etc/passwd"), 422, "no picture"),
        ("gopher:", _image("gopher://127.0.0.1:PORT/_x"), 422, "no picture"),
        ("no scheme", _image("//images.example.org/picture.png"), 422, "no picture"),
        ("a file of the server", _image("/etc/passwd"), 422, "no picture"),
        ("an answer without end", _image("http://images.example.org/endless"), 422, "1,048,576"),
        ("an answer that dribbles", _image("http://images.example.org/dribble"), 422, "limit of 3 seconds"),
        ("an answer packed a thousandfold", _image("http://images.example.org/packed"), 422, "not a JPEG"),
        ("a text that says it is a picture", _image("http://images.example.org/text"), 422, "not a JPEG"),
        ("an error page with a secret", _image("http://images.example.org/missing"), 422, "status 404"),
    ),
    *_group(
        "pictures",
        ("1 x 1 (CVE-2026-22773)", _picture(png(1, 1)), 200, "embedding"),
        ("1 x 20,000", _picture(png(1, 20_000)), 200, ""),
        ("no bytes", _image("data:image/png;base64,"), 422, "is empty"),
        ("3.6 billion pixels in 150 bytes", _picture(claiming(60_000, 60_000)), 422, "50,000,000"),
        ("one more pixel than the limit", _picture(claiming(50_000_001, 1)), 422, "50,000,000"),
        (
            "the limit, five times in a request",
            _input([{"image": data_uri(claiming(50_000_000, 1))}] * 5), 422, "together",
        ),
        ("cut in the middle (CVE-2026-22778)", _picture(png(64, 64)[:-60]), 422, "cannot be decoded"),
        *((f"a {kind} that is noise behind its head", _picture(broken(kind)), 422, "") for kind in ("PNG", "GIF")),
        ("an SVG with a file in it", _picture(b"<svg><image href='file:///etc/passwd'/></svg>"), 422, "not a JPEG"),
        ("a PDF", _picture(b"%PDF-1.7\n"), 422, "not a JPEG"),
        ("a GIF of 10,000 frames (CVE-2026-5497): the first is taken", _picture(many_frames()), 200, "embedding"),
        ("a PNG of 3,000 frames: the first is taken", _picture(many_png_frames()), 200, "embedding"),
        ("frames of a video (CVE-2026-5497)", _image("data:video/jpeg;base64,/9j/,/9j/"), 422, "no video"),
        ("a picture that is a page too", _picture(polyglot(), "text/html"), 422, "no video"),
        ("half base64, half not", _image(data_uri(png())[:-8] + "\u00e9*()!"), 422, "not base64"),
        ("more bytes than a picture may have", _picture(png() + bytes(1 << 20)), 422, "1,048,576"),
    ),
    *_group(
        "bodies",
        ("longer than the limit", _body(b" " * (LIMITS.body + 1)), 413, "4,194,304"),
        (
            "that claims 1 PB",
            lambda target: target.raw(_HEAD + b"Content-Length: 1000000000000000\r\n\r\n"), 413, "4,194,304",
        ),
        ("in pieces, without end", lambda target: _endless(target), 413, "4,194,304"),
        (
            "two lengths",
            lambda target: target.raw(_HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n123456"), 400, "",
        ),
        (
            "a length, and pieces (request smuggling)",
            lambda target: target.raw(_HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            400, "",
        ),
        (
            "that never comes",
            lambda target: target.raw(_HEAD + _KEY + b"Content-Length: 50\r\n\r\n{", keyed=True),
            408, "limit of 1 seconds",
        ),
        ("a head that dribbles", lambda target: target.raw(_HEAD), 408, "limit of 1 seconds"),
        ("a head without end", lambda target: target.raw(_HEAD + b"X: y\r\n" * 20_000), 431, "65,536"),
        (
            "packed a thousandfold",
            _body(gzip.compress(b"[" + b" " * 10**7 + b"]"), Content_Encoding="gzip"), 415, "compressed",
        ),
        ("lists in lists, 100,000 deep", _body(b"[" * 100_000), 400, "within each other"),
        ("objects in objects, in a filter", _search(instruction="red", filter=_deep(200)), 400, "within each other"),
        ("NaN", _body(b'{"input": "a", "dimensions": NaN}'), 400, "NaN"),
        ("a number of 100,000 digits", _body(b'{"input": "a", "dimensions": 1' + b"0" * 100_000 + b"}"), 400, "digits"),
        ("a field given twice", _body(b'{"input": "a", "input": "b"}'), 400, "twice"),
        ("half a character", _body(b'{"input": "\\ud800"}'), 400, "half a character"),
        ("NUL", _body(b'{"input": "a\\u0000b"}'), 400, "NUL"),
        ("UTF-16", _body('{"input": "a"}'.encode("utf-16")), 400, "UTF-8"),
        ("a field that nobody knows", _input("a", __proto__={"admin": True}), 422, "no field"),
        ("more inputs than the limit", _input(["a"] * 33), 422, "32"),
        ("more words than the limit", _input("a " * 20_000), 422, "20,000"),
        ("tokens of another model", _input([[1, 2, 3]]), 422, "tokens"),
        ("a kind of part that is an object", _input([{"content": [{"type": {"a": []}}]}]), 422, "no part"),
        ("a part of a form that nobody asked for", _stray, 422, "no part of the form"),
        ("no input", _input([]), 422, "empty"),
    ),
    *_group(
        "paths of the server",
        (
            "as a picture of the gallery",
            _as_it_stands("/v1/gallery/pictures/../../../../etc/passwd"), 404, "not in the gallery",
        ),
        (
            "the same, percent-encoded",
            _get("/v1/gallery/pictures/..%2f..%2f..%2fetc%2fpasswd"), 404, "not in the gallery",
        ),
        ("absolute", _get("/v1/gallery/pictures//etc/passwd"), 404, "not in the gallery"),
        ("as a file of the page", _get("/page/..%2f..%2fapp.py"), 404, ""),
        ("as a model", _input("a", model="../../etc/passwd"), 404, "not served here"),
        ("as a reference", _search(id="../../etc/passwd", instruction="red"), 404, "not in the gallery"),
        ("as an upload's name", _upload("../../../tmp/x.png", png(32, 32)), 200, "hits"),
        ("as a row's id", lambda target: _row(target, "../../x"), 201, "added"),
        ("as a row's picture", lambda target: _row(target, "x", "/etc/passwd"), 422, "no picture"),
        ("as 10,001 ids", _search(instruction="red", exclude=["../x"] * 10_001), 422, "10,000"),
        ("SQL in a filter", _search(instruction="red", filter={"a'; DROP TABLE x; --": 1}), 422, ""),
    ),
    *_group(
        "keys, and browsers",
        ("no key", _keyed(), 401, "Authorization: Bearer"),
        ("a wrong key", _keyed(Authorization="Bearer a-key-that-is-long-enougH"), 401, "Authorization: Bearer"),
        ("a key's beginning", _keyed(Authorization=f"Bearer {KEY[:-1]}"), 401, "Authorization: Bearer"),
        ("no key, by way of the page", _as_it_stands("/page/../v1/models", keyed=True), 404, "nothing is served"),
        ("no key, with a slash more", _keyed("//v1/models"), 401, "Authorization: Bearer"),
        ("a name that leads here (DNS rebinding)", _get("/v1/models", Host="evil.example"), 403, "name in Host"),
        (
            "the page of another site",
            lambda target: target.post("/v1/embeddings", {"input": "a"}, headers={"Origin": "https://evil.example"}),
            403, "another site",
        ),
        ("a form of another site", _body(b'{"input": "a"}', Content_Type="text/plain"), 415, "application/json"),
        (
            "asking whether other sites may ask",
            lambda target: target.ask(
                "OPTIONS", "/v1/embeddings",
                headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
            ),
            405, "",
        ),
    ),
]  # fmt: skip
