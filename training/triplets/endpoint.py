"""Answers of an OpenAI-compatible server: OpenAI's own, vLLM, llama.cpp, Ollama, or any other with that API."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from multiprocessing.pool import ThreadPool
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from mllm_embed.errors import ConfigError, ImageError, ModelError
from mllm_embed.generate.answer_cache import CUT, REFUSED, CachedAnswer

from .asked import Asked

CHAT_PATH = "/chat/completions"
TRIES = 7  # waiting 0, 2, 4 ... 32 seconds between them, or what the server says
LONGEST_PAUSE = 300  # seconds, whatever a busy server asks for
_PART = 32  # bytes that are waited for at once: each may take the whole timeout too, where a server drips
_LONGEST = 1 << 26  # bytes of an answer
LOST = 3  # tries where no answer comes at all: each may take the whole timeout
PASSING = (408, 429, 500, 502, 503, 504, 529)
ABOUT_THE_PROMPT = (400, 413, 422)
CURES = {
    401: "give a valid key in the environment variable that --key-variable names",
    403: "the key may not use this model",
    404: "check the model's name there, and --endpoint, which often ends in /v1",
    405: "check --endpoint",
    429: "lower --concurrency, or see to your quota",
}


class Endpoint:
    """A model on an OpenAI-compatible server.

    Args:
        url: the address that a client's base_url is, for example http://localhost:8000/v1.
        model: its name there.
        key: goes into the header and nowhere else.
        body: sent beside model and messages.
        concurrency: prompts that are asked at a time.
        timeout: seconds to wait for an answer, the whole of it.

    Nothing is sent before `ask`. Raises ConfigError for an address or a key that is none.
    """

    def __init__(
        self, url: str, model: str, key: str | None, body: dict[str, Any], concurrency: int = 8, timeout: int = 120
    ):
        parts = _address(url)
        if key and not (key.isascii() and key.isprintable()):
            raise ConfigError("the key holds a character that no key has; copy it again")
        path = parts.path.rstrip("/").removesuffix(CHAT_PATH) + CHAT_PATH
        self._url = urlunsplit(parts._replace(path=path, fragment=""))
        self._shown = urlunsplit(parts._replace(path=path, query="", fragment=""))
        self._key, self._body = key, {"model": model, **body}
        self._concurrency, self._timeout = concurrency, timeout
        self._sessions = threading.local()
        self.name, self.cure = model, "see to the model's name and --extra"
        self.identity = dict(self._body)

    def ask(self, prompts: Iterable[tuple[str, str | Asked]]) -> Iterator[tuple[str, CachedAnswer]]:
        """Yield (key, answer) for each (key, prompt), as they arrive. A busy server or a timeout is tried again.

        An answer with `finish` "refused" is the server's word against one prompt, or says why a picture of it cannot
        be read. Raises ModelError, one sentence, for
        what would go wrong with every prompt, or goes wrong again and again.
        """
        with ThreadPool(self._concurrency) as pool:  # its threads are daemons: Ctrl-C and errors do not wait for them
            yield from pool.imap_unordered(lambda item: (item[0], self._answer(item[1])), prompts)

    def _answer(self, prompt: str | Asked) -> CachedAnswer:
        import requests
        from urllib3.exceptions import ReadTimeoutError

        try:
            content = prompt if isinstance(prompt, str) else prompt.content()
        except ImageError as error:
            return CachedAnswer(str(error), REFUSED)
        body = {**self._body, "messages": [{"role": "user", "content": content}]}
        try:
            response = self._session().post(
                self._url, json=body, timeout=(10, self._timeout), allow_redirects=False, auth=self._sign, stream=True
            )
            self._receive(response)
        except (requests.RequestException, UnicodeError) as error:  # an odd host name ends in the latter
            cause, cure = _cause(error), "check --endpoint"
            if isinstance(cause, ReadTimeoutError):
                cure = "give more with --timeout, or lower --concurrency"
            reason = str(cause).rpartition(": ")[2].strip(" .") or type(cause).__name__
            raise ModelError(f"no answer from {self._shown} ({reason}); {cure}") from error
        if response.status_code in ABOUT_THE_PROMPT:
            return CachedAnswer(self._hidden(f"{self._shown} answers {_status(response)}"), REFUSED)
        if response.status_code != 200:
            cure = CURES.get(response.status_code, "run the same command later, or check --endpoint")
            raise ModelError(self._hidden(f"{self._shown} answers {_status(response)}; {cure}"))
        return self._read(response)

    def _receive(self, response: Any) -> None:
        """Read the body of an answer. Raises ModelError for one without an end: a read has a timeout of its own."""
        until, parts, size = time.monotonic() + self._timeout, [], 0
        with response:
            for part in response.iter_content(_PART):
                parts.append(part)
                size += len(part)
                if time.monotonic() > until:
                    raise ModelError(
                        f"no whole answer from {self._shown} within {self._timeout} s; give more with --timeout, or "
                        "lower --concurrency"
                    )
                if size > _LONGEST:
                    raise ModelError(f"{self._shown} answers with more than {_LONGEST >> 20} MiB; check --endpoint")
        response._content = b"".join(parts)  # where requests itself keeps what it has read

    def _read(self, response: Any) -> CachedAnswer:
        try:
            choice = response.json()["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason")
            text = message.get("content") or message.get("refusal") or ""
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self._shown} does not answer as an OpenAI-compatible server does; --endpoint is often an address "
                "that ends in /v1"
            ) from error
        return CachedAnswer(text if isinstance(text, str) else "", CUT if finish == CUT else "stop")

    def _session(self) -> Any:
        """Return this thread's session: they are not promised to be shared safely."""
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        if not hasattr(self._sessions, "session"):

            class Patience(Retry):
                """Retries that wait as long as a server asks for, within reason."""

                def get_retry_after(self, response: Any) -> float | None:
                    asked = super().get_retry_after(response)
                    return None if asked is None else min(asked, LONGEST_PAUSE)

            retry = Patience(
                TRIES - 1, connect=LOST - 1, read=LOST - 1, allowed_methods=None, status_forcelist=PASSING,
                raise_on_status=False, backoff_factor=1, backoff_max=60, backoff_jitter=1,
            )  # fmt: skip
            session = self._sessions.session = requests.Session()
            session.mount("http://", HTTPAdapter(max_retries=retry))
            session.mount("https://", HTTPAdapter(max_retries=retry))
        return self._sessions.session

    def _sign(self, request: Any) -> Any:
        """Sign a request. Done even without a key: requests would look for one in ~/.netrc."""
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _hidden(self, text: str) -> str:
        """Return the text without the key, which some servers repeat in their errors."""
        return text.replace(self._key, "***") if self._key else text


def _address(url: str) -> SplitResult:
    """Return the parts of an address. Raises ConfigError for one that is none, or holds a secret."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise ConfigError(f"--endpoint '{url}' is no address; give one like http://localhost:8000/v1")
    if "@" in parts.netloc:
        raise ConfigError("--endpoint holds a name or password; put the key into an environment variable instead")
    return parts


def _status(response: Any) -> str:
    """Return the status, and the server's own words for it."""
    if response.is_redirect:
        return f"{response.status_code}, that it has moved to {response.headers['location'][:200]}"
    try:
        error = response.json().get("error")
        words = error.get("message") if isinstance(error, dict) else error or response.json().get("message")
    except (ValueError, AttributeError):
        words = None
    reason = " ".join(str(words).split())[:300] if words else response.reason
    return f"{response.status_code} ({reason.rstrip('.')})" if reason else str(response.status_code)


def _cause(error: Exception) -> Exception:
    """Return the innermost of an error of requests, which is the one that says something."""
    inner: Any = error
    while isinstance(deeper := getattr(inner, "reason", None) or (inner.args[0] if inner.args else None), Exception):
        inner = deeper
    return inner
