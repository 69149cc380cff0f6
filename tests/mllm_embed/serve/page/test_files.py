"""The page's files: what is sent, with which headers, and that they hold together. No browser needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mllm_embed.serve import page
from mllm_embed.serve.refusals import install

FOLDER = Path(page.__file__).with_name("page")
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob: data:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    install(app)
    app.include_router(page.router)
    return TestClient(app)


def test_every_file_is_sent_with_the_policy(client: TestClient) -> None:
    paths = ["/", *(f"/page/{path.name}" for path in FOLDER.iterdir())]
    assert len(paths) > 10
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 200, path
        directives = answer.headers["content-security-policy"].split("; ")
        assert dict(directive.split(" ", 1) for directive in directives) == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-cache"
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(answer.content))


def test_files_are_what_they_are_in_the_package(client: TestClient) -> None:
    kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for path in FOLDER.iterdir():
        answer = client.get(f"/page/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["content-type"].split(";")[0] == kinds[path.suffix]
    assert client.get("/").content == (FOLDER / "index.html").read_bytes()


def test_what_has_not_changed_is_not_sent_again(client: TestClient) -> None:
    tag = client.get("/page/page.js").headers["etag"]
    same = client.get("/page/page.js", headers={"If-None-Match": f'W/"other", {tag}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert client.get("/page/page.js", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "name", ["none.js", "..%2Fpage.py", "%2Fetc%2Fpasswd", "%2E%2E%2Fpage.py", "page.py", "%00", "PAGE.JS"]
)
def test_no_name_leads_elsewhere(client: TestClient, name: str) -> None:
    answer = client.get(f"/page/{name}")
    assert answer.status_code == 404
    assert "message" in answer.json()["error"]


def test_the_page_is_not_part_of_the_api(client: TestClient) -> None:
    assert client.get("/openapi.json").json()["paths"] == {}


def test_the_files_ask_nobody_else_and_find_one_another() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    for name, text in texts.items():
        addresses = set(re.findall(r"https?://[^\s\"')]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name  # a name, which nothing is fetched from
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), (
            name
        )
        for module in re.findall(r'from "\./([^"]+)"', text):
            assert module in texts, f"{name} imports {module}"
    index = texts["index.html"]
    for name in re.findall(r'(?:src|href)="page/([^"]+)"', index):
        assert name in texts
    assert not re.search(r"\sstyle=|<style|\son\w+=", index), "the policy forbids it"
    ids = re.findall(r'\sid="([^"]+)"', index)
    assert len(ids) == len(set(ids))
    for name, text in texts.items():
        for wanted in re.findall(r'byId\("([^"]+)"\)', text):
            assert wanted in ids, f"{name} wants #{wanted}"


def test_modules_stay_small() -> None:
    for path in FOLDER.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("// "), f"{path.name} does not say what it is for"
        assert text.count("\n") <= 250, path.name
        assert max(map(len, text.splitlines())) <= 120, path.name
