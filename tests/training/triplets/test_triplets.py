"""Triplets of a language model, through the command line: a real HTTP server plays the endpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from urllib3 import HTTPResponse

from mllm_embed.data.folder import DataFolder
from mllm_embed.training.cli import main
from mllm_embed.training.triplets import endpoint
from servers.chat import Server, good

ROOT = Path(__file__).resolve().parents[3]
SECRET = "sk-very-secret"


def make(folder: Path, server: Server, *more: str) -> int:
    return main(["make-triplets", str(folder), "--endpoint", server.url, "--model", "m", *more])


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "triplets.report.json").read_text())


def test_captions_become_triplets_that_training_reads(captions: Path, server: Server) -> None:
    before = {path: path.read_bytes() for path in captions.rglob("*") if path.is_file()}
    assert make(captions, server, "--per-caption", "2") == 0
    folder = DataFolder.open(captions)
    assert [triplet.id for triplet in folder.triplets] == [f"p{i}-{n}" for i in range(8) for n in (1, 2)]
    pair, triplet = folder.pairs[3], folder.triplets[7]
    assert (triplet.image, triplet.source_text, triplet.kind) == (pair.image, pair.caption, "colour")
    assert (triplet.instruction, triplet.target_text) == ("have it in grey", f"{pair.caption}, all grey")
    assert all(path.read_bytes() == content for path, content in before.items())
    asked = server.requests[0]
    assert asked["path"] == "/v1/chat/completions" and "Authorization" not in asked["headers"]
    assert asked["body"]["model"] == "m" and asked["body"]["temperature"] == 0.7 and asked["body"]["max_tokens"] == 1024
    told = report_of(captions)
    assert (told["captions"], told["changes"], told["triplets"], told["kinds"]) == (8, 24, 16, {"colour": 16})
    assert told["dropped"]["surplus"]["count"] == 8


def test_nothing_is_asked_twice_and_nothing_mixes(captions: Path, server: Server, tmp_path: Path) -> None:
    server.reply = lambda caption, times: (time.sleep(hash(caption) % 7 / 200), good(caption))[1]
    assert make(captions, server, "--limit", "3") == 0
    assert server.asked.total() == 3 and len(DataFolder.open(captions).triplets) == 9
    assert make(captions, server) == 0
    first, told = (captions / "triplets.jsonl").read_bytes(), report_of(captions)
    assert server.asked.total() == 8 and set(server.asked.values()) == {1}
    assert make(captions, server, "--concurrency", "1", "--key-variable", "HOME", "--timeout", "9") == 0
    assert server.asked.total() == 8 and (captions / "triplets.jsonl").read_bytes() == first
    assert {**report_of(captions), "replaced": 0} == {**told, "replaced": 0}

    prompt = tmp_path / "mine.txt"
    prompt.write_text("Caption:\n\n{caption}\n\nGive instruction and modified_caption as JSON.")
    more = ["--temperature", "0"], ["--per-caption", "2"], ["--model", "n"], ["--prompt", str(prompt)]
    for total, words in enumerate([*more, ["--extra", '{"seed": 1}'], ["--max-tokens", "9"]], start=2):
        assert make(captions, server, *words) == 0
        assert server.asked.total() == 8 * total
    assert make(captions, server) == 0
    assert server.asked.total() == 8 * 7 and (captions / "triplets.jsonl").read_bytes() == first


def test_a_killed_run_goes_on_where_it_was(captions: Path, server: Server, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (captions / "pairs.jsonl").read_text().splitlines()]
    rows = [{**rows[0], "id": f"p{i}", "caption": f"thing number {i}"} for i in range(60)]
    (captions / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server.reply = lambda caption, times: (time.sleep(0.03), good(caption))[1]
    cache = captions / "triplets.cache.jsonl"
    command = [sys.executable, "-m", "training", "make-triplets", captions, "--endpoint", server.url, "--model", "m"]
    with subprocess.Popen([*command, "--concurrency", "4"], cwd=ROOT, stderr=subprocess.DEVNULL) as run:
        limit = time.monotonic() + 30
        while not cache.exists() or cache.read_bytes().count(b"\n") < 20:
            assert run.poll() is None and time.monotonic() < limit
            time.sleep(0.005)
        os.kill(run.pid, signal.SIGKILL)
    assert not (captions / "triplets.jsonl").exists() and not (captions / "triplets.report.json").exists()
    whole = cache.read_bytes().splitlines(keepends=True)
    cache.write_bytes(b"".join(whole)[:-30])  # as a kill in the middle of a write leaves it
    kept = {json.loads(line)["caption"] for line in whole[:-1]}
    assert 19 <= len(kept) < 60
    time.sleep(0.1)  # what the killed run had under way
    server.asked.clear()
    assert make(captions, server) == 0
    assert server.asked.keys() == {row["caption"] for row in rows} - kept and set(server.asked.values()) == {1}
    resumed = (captions / "triplets.jsonl").read_bytes()
    server.asked.clear()
    assert make(captions, server) == 0 and not server.asked  # the half line did not spoil the one after it
    assert make(captions, server, "--cache", str(tmp_path / "fresh.jsonl")) == 0
    assert server.asked.total() == 60 and (captions / "triplets.jsonl").read_bytes() == resumed


def test_what_passes_is_tried_again(captions: Path, server: Server) -> None:
    busy = [(429, {"Retry-After": "1"}, {"error": {"message": "slow down"}}), (500, {}, "oops"), (503, {}, "")]

    def reply(caption: str, times: int) -> Any:
        number = int(caption.rpartition(" ")[2])
        return busy[number] if number < 3 and times == 1 else good(caption)

    server.reply = reply
    assert make(captions, server) == 0
    assert sorted(server.asked.values()) == [1] * 5 + [2] * 3
    assert report_of(captions)["triplets"] == 24


def test_no_more_than_asked_at_a_time(captions: Path, server: Server) -> None:
    server.reply = lambda caption, times: (time.sleep(0.05), good(caption))[1]
    assert make(captions, server, "--concurrency", "3") == 0
    assert server.most_at_once == 3


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((401, {}, {"error": {"message": f"Incorrect API key: {SECRET}."}}), ("401", "***", "--key-variable")),
        (
            (404, {}, {"error": {"message": "The model `m` does not exist"}}),
            ("404", "`m` does not exist", "--endpoint"),
        ),
        ((404, {}, "<html>"), ("404 (Not Found)", "--endpoint")),
        ((301, {"Location": "https://elsewhere.example/v1"}, ""), ("301", "elsewhere.example", "--endpoint")),
        ((400, {}, {"error": {"message": "no max_tokens here"}}), ("400 (no max_tokens here)", "--extra")),
        ((503, {}, {"error": "loading"}), ("503 (loading)", "later")),
        ((200, {}, "<html>"), ("does not answer as", "/v1")),
        ((200, {}, {"error": "x"}), ("does not answer as", "/v1")),
        ((200, {}, [1]), ("does not answer as", "/v1")),
    ],
)
def test_what_fails_for_all_is_one_sentence(
    captions: Path, server: Server, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str],
    reply: Any, words: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.setattr(endpoint, "TRIES", 2)
    monkeypatch.setenv("MY_KEY", SECRET)
    server.reply = lambda caption, times: reply
    told = refused(str(captions), "--endpoint", server.url, "--model", "m", "--key-variable", "MY_KEY")
    assert all(word in told for word in words), told
    assert server.requests[0]["headers"]["Authorization"] == f"Bearer {SECRET}"
    assert SECRET not in told and not (captions / "triplets.jsonl").exists()
    written = [path for path in captions.iterdir() if path.is_file()]
    assert not any(SECRET.encode() in path.read_bytes() for path in written)
    server.reply = lambda caption, times: good(caption)  # nothing of it was kept
    assert make(captions, server) == 0 and report_of(captions)["triplets"] == 24


def test_slow_and_absent_servers(
    captions: Path, server: Server, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.setattr(endpoint, "LOST", 1)
    done = threading.Event()
    server.reply = lambda caption, times: done.wait(30) and good(caption)
    start = time.monotonic()
    told = refused(str(captions), "--endpoint", server.url, "--model", "m", "--timeout", "1")
    assert "(read timeout=1)" in told and "--timeout" in told and time.monotonic() - start < 4
    done.set()
    server.http.shutdown()
    server.http.server_close()
    told = refused(str(captions), "--endpoint", server.url, "--model", "m", "--limit", "1")
    assert "no answer from http://127.0.0.1" in told and "refused" in told


def test_one_refused_caption_is_counted_and_not_asked_again(captions: Path, server: Server) -> None:
    blocked = (400, {}, {"error": {"message": "content filter"}})
    server.reply = lambda caption, times: blocked if caption.endswith("0") else good(caption)
    assert make(captions, server) == 0
    told = report_of(captions)
    assert told["triplets"] == 21 and told["dropped"]["refused"]["count"] == 1
    assert "content filter" in told["dropped"]["refused"]["example"]["answer"]
    assert make(captions, server) == 0 and server.asked.total() == 8


def test_bad_answers_are_dropped_counted_and_shown(
    captions: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    change = {"instruction": "in pink please", "modified_caption": "a pink one"}

    def reply(caption: str, times: int) -> Any:
        answers = {
            0: f"Sure!\n```json\n{good(caption, 2)}\n```",
            1: "I cannot help with that.\x1b[2J",
            2: '[{"instruction": "in pink',
            3: json.dumps([{**change, "modified_caption": caption.upper()}]),
            4: json.dumps([change, change, {**change, "instruction": "pink, now"}]),
            5: json.dumps([{"instruction": "\ud800", "modified_caption": "x"}]),
            6: None,
            7: json.dumps([change, {"instruction": 3}]),
        }
        return answers[int(caption.rpartition(" ")[2])]

    server.reply = reply
    assert make(captions, server) == 0
    told = report_of(captions)
    counts = {reason: entry["count"] for reason, entry in told["dropped"].items()}
    assert counts == {"no_json": 3, "repeated": 2, "incomplete": 2, "unchanged": 1}
    assert told["changes"] == told["triplets"] + 5 and told["triplets"] == 4 and told["kinds"]["unnamed"] == 2
    assert told["dropped"]["no_json"]["example"]["id"] == "p1"
    table = capsys.readouterr().out
    assert "8 captions" in table and "3 no_json" in table and "I cannot help" in table and "\x1b" not in table


def test_captions_and_pictures_that_come_twice(captions: Path, server: Server) -> None:
    rows = [json.loads(line) for line in (captions / "pairs.jsonl").read_text().splitlines()][:3]
    rows[1]["caption"] = rows[0]["caption"]  # one caption of two pictures: asked once
    rows[2] |= {"image": rows[0]["image"], "caption": f"{rows[0]['caption']}, all pink"}  # a target of the first
    (captions / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert make(captions, server) == 0
    assert server.asked.total() == 2
    told = report_of(captions)
    # the first picture has its pink one already, the second gets that one alone
    assert told["triplets"] == 2 + 1 + 3 and told["dropped"]["repeated"]["count"] == 1 + 2


def test_only_its_own_file_is_replaced(data: Path, server: Server, refused: Callable[..., str], tmp_path: Path) -> None:
    foreign = (data / "triplets.jsonl").read_bytes()
    asked = str(data), "--endpoint", server.url, "--model", "m"
    assert "was not made by this command" in refused(*asked)
    assert (data / "triplets.jsonl").read_bytes() == foreign and not server.asked
    (data / "triplets.jsonl").rename(tmp_path / "mine.jsonl")
    assert make(data, server) == 0 and make(data, server, "--per-caption", "1") == 0
    older = (data / "triplets.jsonl").read_bytes()
    assert make(data, server) == 0
    (data / "triplets.jsonl").write_bytes(older)  # as a kill between the report and the triplets leaves it
    assert make(data, server) == 0
    with (data / "triplets.jsonl").open("a") as file:
        file.write("\n")
    assert "changed since" in refused(*asked)


def test_a_file_of_pairs_in_its_folder(captions: Path, server: Server) -> None:
    (captions / "pairs.jsonl").rename(captions / "short.jsonl")
    assert make(captions / "short.jsonl", server) == 0
    assert len(DataFolder.open(captions).triplets) == 24


def test_the_prompt_can_be_seen_and_replaced(
    captions: Path, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = tmp_path / "mine.txt"
    prompt.write_text('Say\n\n{caption}\n\n{count} times as {"instruction": 1, "modified_caption": 2}. {kinds}')
    row = {"id": "p", "image": "images/0.png", "caption": "a {count} and {kinds} sign"}
    (captions / "pairs.jsonl").write_text(json.dumps(row))
    assert main(["make-triplets", str(captions), "--dry-run", "--prompt", str(prompt), "--per-caption", "7"]) == 0
    shown = capsys.readouterr().out
    assert "Say\n\na {count} and {kinds} sign\n\n7 times" in shown and "- colour: " in shown
    assert make(captions, server, "--prompt", str(prompt), "--per-caption", "7") == 0
    assert server.requests[0]["body"]["messages"][0]["content"] in shown


def test_fields_of_the_request_can_be_added_and_taken_away(captions: Path, server: Server) -> None:
    extra = {"max_tokens": None, "max_completion_tokens": 50, "temperature": None}
    assert make(captions, server, "--extra", json.dumps(extra), "--limit", "1") == 0
    assert server.requests[0]["body"].keys() == {"model", "messages", "max_completion_tokens"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing"], "missing is missing"),
        (["{data}/images"], "holds none of pairs.jsonl"),
        (["{data}/benchmark.json"], "say with --format how it is written"),
        (["{data}"], "give either --endpoint"),
        (["{data}", "--endpoint", "{url}", "--local", "m"], "give either --endpoint"),
        (["{data}", "--endpoint", "{url}"], "--model NAME"),
        (["{data}", "--endpoint", "localhost:1/v1", "--model", "m"], "is no address"),
        (["{data}", "--endpoint", "http://a:b@c/v1", "--model", "m"], "name or password"),
        (["{data}", "--endpoint", "{url}", "--model", "m", "--key-variable", "NO_SUCH"], "NO_SUCH is empty"),
        (["{data}", "--endpoint", "{url}", "--model", "m", "--key-variable", "BAD"], "no key has"),
        (["{data}", "--local", "/no/such/model"], "/no/such/model is not a folder"),
        (["{data}", "--local", "m", "--model", "m"], "--model belongs to --endpoint"),
        (["{data}", "--prompt", "{data}/none.txt", "--dry-run"], "none.txt cannot be read"),
        (["{data}", "--prompt", "{data}/no-mark.txt", "--dry-run"], "has no {caption}"),
        (["{data}", "--prompt", "{data}/typo.txt", "--dry-run"], "{cuont}"),
        (["{data}", "--prompt", "{data}/keys.txt", "--dry-run"], 'does not ask for "modified_caption"'),
        (["{data}", "--prompt", "{data}/images/0.png", "--dry-run"], "is not UTF-8"),
        (["{data}", "--endpoint", "{url}", "--model", "m", "--cache", "{data}/images"], "cannot hold the answers"),
    ],
)
def test_mistakes_are_one_sentence(
    captions: Path, server: Server, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str],
    words: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("BAD", "sk\n1")
    (captions / "no-mark.txt").write_text("instruction modified_caption")
    (captions / "typo.txt").write_text("{caption} {cuont} instruction modified_caption")
    (captions / "keys.txt").write_text("{caption} instruction")
    filled = [word.replace("{data}", str(captions)).replace("{url}", server.url) for word in words]
    assert message in refused(*filled)
    assert not server.asked and not (captions / "triplets.jsonl").exists()


def test_an_answer_that_never_ends_is_waited_for_no_longer_than_said(
    captions: Path, server: Server, refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        for _ in range(4000):  # longer than the test may take
            self.wfile.write(b" ")
            time.sleep(0.02)

    monkeypatch.setattr(server.http.RequestHandlerClass, "do_POST", drip)
    told = refused(str(captions), "--endpoint", server.url, "--model", "m", "--timeout", "1")
    assert "no whole answer from" in told and "within 1 s; give more with --timeout" in told


def test_a_busy_server_is_not_waited_for_a_day() -> None:
    asked = endpoint.Endpoint("http://127.0.0.1:1/v1", "m", None, {})._session().get_adapter("http://x").max_retries
    assert asked.get_retry_after(HTTPResponse(headers={"Retry-After": "86400"})) == endpoint.LONGEST_PAUSE


@pytest.mark.parametrize("words", [["--limit", "0"], ["--temperature", "x"], ["--extra", "[1]"], ["--timeout", "-1"]])
def test_bad_values_are_told_with_the_usage(captions: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["make-triplets", str(captions), *words])
    assert ended.value.code == 2
