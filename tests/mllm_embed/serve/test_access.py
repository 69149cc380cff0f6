"""Who may ask: the key, the Host and the Origin."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from mllm_embed.errors import ConfigError
from mllm_embed.serve.access import Access, AccessGuard
from mllm_embed.serve.refusals import install

KEY = "correct-horse-battery-staple"


def client(access: Access) -> TestClient:
    app = FastAPI()
    install(app)
    for path in ("/", "/health", "/ready", "/metrics", "/v1/models", "/v2/embed", "/page/a.js", "/pages", "/healthy"):
        app.add_api_route(path, lambda: {"ok": True}, methods=["GET", "POST"])
    app.add_middleware(AccessGuard, access=access)
    return TestClient(app, base_url="http://localhost:8000")


def of_file(folder: Path, content: str | bytes, mode: int = 0o600) -> Access:
    path = folder / "key"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return Access.of(path)


def test_without_the_key_only_the_page_and_health_answer(tmp_path: Path) -> None:
    asked = client(of_file(tmp_path, KEY + "\n"))
    for path in ("/", "/health", "/ready", "/page/a.js"):
        assert asked.get(path).status_code == 200, path
    for path in (
        "/metrics",
        "/v1/models",
        "/v2/embed",
        "/openapi.json",
        "/pages",
        "/healthy",
        "/nowhere",
        "/page",
    ):
        answer = asked.get(path)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", path
    assert asked.get("/v1/models").json()["error"]["type"] == "authentication_error"
    assert "key" in asked.get("/v2/embed").json()["message"]


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {KEY}", 200), (f"bearer  {KEY} ", 200), (KEY, 401), (f"Basic {KEY}", 401), (f"Bearer {KEY}x", 401),
        (f"Bearer {KEY[:-1]}", 401), ("Bearer", 401), ("Bearer ", 401), ("", 401), (f"Bearer {KEY.upper()}", 401),
        (b"Bearer " + "schl\u00fcssel".encode("latin-1"), 401), (b"Bearer \xff\xfe\x80", 401),
        (b"Bearer " + b"a" * 60_000, 401),
    ],
)  # fmt: skip
def test_the_key_is_the_whole_of_it(header: str | bytes, status: int, tmp_path: Path) -> None:
    assert client(of_file(tmp_path, KEY)).get("/v1/models", headers={"Authorization": header}).status_code == status


def test_two_keys_in_a_request_are_none(tmp_path: Path) -> None:
    asked = client(of_file(tmp_path, KEY))
    headers = [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer other")]
    assert asked.get("/v1/models", headers=headers).status_code == 401


def test_a_file_may_have_two_keys_while_one_takes_the_place_of_the_other(tmp_path: Path) -> None:
    asked = client(of_file(tmp_path, f"{KEY}\n\n  another-key-of-some-length  \r\n"))
    for key in (KEY, "another-key-of-some-length"):
        assert asked.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert asked.get("/v1/models", headers={"Authorization": "Bearer "}).status_code == 401


def test_the_environment_holds_a_key_where_no_file_does(tmp_path: Path) -> None:
    assert client(Access.of(None, KEY)).get("/v1/models").status_code == 401
    asked = client(Access.of(None, f" {KEY}\n"))
    assert asked.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    (tmp_path / "key").write_text("the-key-of-the-file")
    (tmp_path / "key").chmod(0o600)
    asked = client(Access.of(tmp_path / "key", KEY))
    assert asked.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 401


@pytest.mark.parametrize(
    "content", ["", "\n\n", "  \t", "schl\u00fcssel-der-lang-genug-ist", b"\xff\xfe", "two words", "nul\0"]
)
def test_what_is_no_key_is_refused_at_the_start_and_not_repeated(content: str | bytes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        of_file(tmp_path, content)
    assert "schl" not in str(caught.value) and "two words" not in str(caught.value)
    with pytest.raises(ConfigError, match="MLLM_EMBED_API_KEY is empty"):
        Access.of(None, " ")
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            Access.of(path)


def test_a_key_that_others_can_read_or_guess_gets_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        of_file(tmp_path, KEY)
        assert caplog.text == ""
        of_file(tmp_path, KEY, 0o644)
        assert "chmod 600" in caplog.text
        Access.of(None, "short")
        assert "may be guessed" in caplog.text
    assert KEY not in caplog.text and '"short"' not in caplog.text


def test_the_key_is_in_nothing_that_is_printed(tmp_path: Path) -> None:
    access = of_file(tmp_path, KEY)
    assert KEY not in repr(access) and "digest" not in repr(access) and KEY not in str(vars(access))


def test_others_are_let_in_only_with_a_key_or_when_that_is_meant(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        Access.of(None).check_address(host)
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", ""):
        with pytest.raises(ConfigError, match="--key-file .*--no-key"):
            Access.of(None).check_address(host)
        Access.of(None).check_address(host, without_key=True)
        of_file(tmp_path, KEY).check_address(host)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8000", 200), ("LOCALHOST:9", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200),
        ("192.168.1.5", 200), ("evil.example", 403), ("localhost.evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example:8000", 403), ("", 403), ("localhost@evil.example", 403), ("2130706433", 403),
        ("embed:8000", 403),
    ],
)  # fmt: skip
def test_a_name_that_is_not_ours_is_refused_where_no_key_is_asked_for(host: str, status: int, tmp_path: Path) -> None:
    for path in ("/", "/v1/models", "/health"):
        assert client(Access.of(None)).get(path, headers={"Host": host}).status_code == status
    known = client(Access.of(None, names=["Embed", "evil.example"]))
    assert known.get("/", headers={"Host": "embed:8000"}).status_code == 200
    keyed = client(of_file(tmp_path, KEY))  # the stranger's page does not know the key
    assert keyed.get("/v1/models", headers={"Host": host, "Authorization": f"Bearer {KEY}"}).status_code == 200


def test_a_request_has_one_host() -> None:
    headers = [("Host", "localhost"), ("Host", "evil.example")]
    assert client(Access.of(None)).get("/", headers=headers).status_code == 400


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200), ("http://localhost:8000", 200), ("HTTP://LOCALHOST:8000", 200), ("https://localhost:8000", 200),
        ("http://localhost:3000", 403), ("http://localhost", 403), ("https://evil.example", 403), ("null", 403),
        ("", 403),
        ("http://localhost:8000.evil.example", 403), ("file://", 403), ("http://127.0.0.1:8000", 403),
    ],
)  # fmt: skip
def test_the_page_of_another_site_sends_nothing_here(origin: str | None, status: int, tmp_path: Path) -> None:
    headers = {} if origin is None else {"Origin": origin}
    for access in (Access.of(None), of_file(tmp_path, KEY)):
        asked = client(access)
        asked.headers["Authorization"] = f"Bearer {KEY}"
        assert asked.post("/v1/models", headers=headers).status_code == status
        assert asked.get("/v1/models", headers=headers).status_code == 200  # which the page cannot read


def test_a_proxy_in_front_is_known_by_its_name() -> None:
    asked = client(Access.of(None, names=["search.example.org"]))
    assert asked.post("/v1/models", headers={"Origin": "https://search.example.org"}).status_code == 200
    assert asked.post("/v1/models", headers={"Origin": "https://search.example.com"}).status_code == 403


def test_answers_are_for_this_servers_pages_alone(tmp_path: Path) -> None:
    asked = client(of_file(tmp_path, KEY))
    for path in ("/", "/v1/models"):
        headers = asked.get(path, headers={"Origin": "https://evil.example"}).headers
        assert (
            headers["cross-origin-resource-policy"] == "same-origin" and headers["x-content-type-options"] == "nosniff"
        )
        assert not [name for name in headers if name.startswith("access-control")]
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = asked.options("/", headers=preflight)
    assert answer.status_code == 405 and not [name for name in answer.headers if name.startswith("access-control")]
