"""A host of pictures on this machine, good and bad, and a door that nobody may knock at."""

from __future__ import annotations

import gzip
import io
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

METADATA = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"


def png(width: int = 8, height: int = 8, color: str = "red") -> bytes:
    """Return the bytes of a picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), color).save(file, "PNG")
    return file.getvalue()


class Sinkhole:
    """A port of this machine that counts who connects to it, and answers nobody."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        """Stop counting."""
        self._socket.close()


class PictureHost:
    """Serves `pages`: a path to (status, headers, body); a body may be a function that writes it out itself."""

    def __init__(self, elsewhere: str = METADATA, tls: ssl.SSLContext | None = None) -> None:
        self.asked: Counter[str] = Counter()
        self.hosts: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.pages: dict[str, tuple[int, dict[str, str], bytes | Callable[[io.BufferedIOBase], None]]] = {
            "/picture.png": (200, {"Content-Type": "text/plain", "Set-Cookie": "a=b"}, png()),
            "/to-metadata": (302, {"Location": METADATA}, b""),
            "/to-elsewhere": (307, {"Location": elsewhere}, b""),
            "/missing": (404, {}, b"secret of the host"),
            "/text": (200, {"Content-Type": "image/png"}, b"root:x:0:0:root:/root:/bin/bash\n"),
            "/packed": (200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(30_000_000))),
            "/endless": (200, {"Content-Type": "image/png"}, _endless),
            "/dribble": (200, {"Content-Type": "image/png"}, _dribble),
        }
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked[self.path] += 1
                outer.hosts.append(self.headers["Host"])
                outer.headers.append(dict(self.headers))
                status, headers, body = outer.pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if isinstance(body, bytes):
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if isinstance(body, bytes):
                    self.wfile.write(body)
                else:
                    body(self.wfile)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # a client that has enough

        self.http = Quiet(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.http.socket = tls.wrap_socket(self.http.socket, server_side=True)
        self.port: int = self.http.server_port
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self.http.shutdown()
        self.http.server_close()


def _endless(file: io.BufferedIOBase) -> None:
    file.write(png())
    while True:
        file.write(bytes(1 << 16))


def _dribble(file: io.BufferedIOBase) -> None:
    for byte in png():
        file.write(bytes([byte]))
        file.flush()
        time.sleep(0.2)
