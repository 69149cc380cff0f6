"""What a command line ends with, whatever the terminal can show."""

from __future__ import annotations

import io
import sys

import pytest

from mllm_embed.errors import DataError, user_errors


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_that_a_terminal_cannot_show_are_escaped(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    @user_errors
    def main() -> int:
        sys.stdout.write("caf\udce9 \u8d64\n")
        raise DataError("caf\udce9 is no name")

    assert main() == 2
    for stream in (out, err):
        stream.flush()
    red = "\u8d64" if encoding == "utf-8" else r"\u8d64"
    assert out.buffer.getvalue().decode(encoding) == f"caf\\udce9 {red}\n"
    assert err.buffer.getvalue() == b"error: caf\\udce9 is no name\n"
