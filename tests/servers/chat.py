"""A real HTTP server that plays an OpenAI-compatible endpoint, and counts what it is asked."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def caption_in(prompt: str) -> str:
    return prompt.split("\n\n")[1]


def good(caption: str, count: int = 3) -> str:
    """What a model that does as it is told answers."""
    colors = ("pink", "grey", "brown", "golden")[:count]
    changes = [
        {"kind": "colour", "instruction": f"have it in {color}", "modified_caption": f"{caption}, all {color}"}
        for color in colors
    ]
    return json.dumps(changes)


class Server:
    """Answers chat completions with what `reply(caption, times asked)` says: a text, or (status, headers, body)."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.reply: Callable[[str, int], Any] = lambda caption, times: good(caption)
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, headers, content = outer.answer(self.path, dict(self.headers), body)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                pass  # clients that are killed or give up

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        caption = caption_in(body["messages"][0]["content"])
        with self.lock:
            self.asked[caption] += 1
            self.requests.append({"path": path, "headers": headers, "body": body})
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            times = self.asked[caption]
        try:
            reply = self.reply(caption, times)
        finally:
            with self.lock:
                self.at_once -= 1
        if isinstance(reply, tuple):
            status, extra, content = reply
            return status, extra, (content if isinstance(content, str) else json.dumps(content)).encode()
        message = {"choices": [{"message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}]}
        return 200, {}, json.dumps(message).encode()
