"""What a request calls a picture: all the ways to write one, and what is none, in words that tell nothing else."""

from __future__ import annotations

import asyncio
import base64
import io
from urllib.parse import quote_from_bytes

import pytest
from PIL import Image

from attacks.picture_host import png
from attacks.pictures import broken, claiming, data_uri
from mllm_embed.serve.fetching import Fetcher
from mllm_embed.serve.limits import Limits
from mllm_embed.serve.pictures import PictureReader
from mllm_embed.serve.refusals import Refusal
from mllm_embed.serve.tickets import Ticket, holding

CONTENT = png(24, 24)
BASE64 = base64.b64encode(CONTENT).decode()
LIMITS = Limits(picture=3 << 20, pixels=1_000_000, all_pixels=2_500_000)


def read(address: str, limits: Limits = LIMITS) -> bytes:
    return asyncio.run(PictureReader(limits).read(address, "input[3].image"))


def refused(address: str, limits: Limits = LIMITS) -> str:
    with pytest.raises(Refusal) as caught:
        read(address, limits)
    assert caught.value.status == 422 and caught.value.field == "input[3].image"
    assert caught.value.message.startswith("input[3].image ") and len(caught.value.message) < 300
    assert caught.value.__cause__ is None  # or a traceback would tell what the message does not
    return caught.value.message


@pytest.mark.parametrize(
    "address",
    [
        f"data:image/png;base64,{BASE64}", f"DATA:IMAGE/PNG;BASE64,{BASE64}", f"data:;base64,{BASE64}",
        f"data:image/png;name=a.png;base64,{BASE64}", f"data:image/png;charset=utf-8;base64,{BASE64}",
        f"data:image/jpeg;base64,{BASE64}", f"data:application/octet-stream;base64,{BASE64}",
        f"data:image/png;base64, {BASE64}\n", f"data:image/png;base64,{BASE64.rstrip('=')}",
        f"data:image/png;base64,{BASE64.replace('+', '-').replace('/', '_')}",
        f"data:image/png;base64,{BASE64.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}",
        "data:image/png;base64," + "\r\n".join(BASE64[at : at + 76] for at in range(0, len(BASE64), 76)),
        f"data:image/png,{quote_from_bytes(CONTENT)}", BASE64, BASE64.rstrip("="),
    ],
)  # fmt: skip
def test_a_picture_may_be_written_in_any_of_these_ways(address: str) -> None:
    assert read(address) == CONTENT


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats_are_told_by_their_bytes(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(file, kind)
    assert read(data_uri(file.getvalue())) == file.getvalue()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("data:image/png;base64,", "is empty"), ("data:image/png;base64", "no data URI"), ("data:", "no data URI"),
        ("data:,", "is empty"), ("data:image/png;base64,%%%", "not base64"), ("data:image/png;base64,a", "not base64"),
        (f"data:image/png;base64,{BASE64[:-9]}\u00e9{BASE64[-8:]}", "not base64"),
        (f"data:image/png,{BASE64}", "not a JPEG"),
        (f"data:video/mp4;base64,{BASE64}", "no video"), (f"data:text/html;base64,{BASE64}", "something else"),
        (f"data:image/png;base64,{BASE64},{BASE64}", "not base64"), (f"data:image/png;base64;{BASE64}", "no data URI"),
        ("data:" + ";" * 5000 + "," + BASE64, "no data URI"), ("data:image/" + "x" * 5000, "no data URI"),
        (data_uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "not a JPEG"), (data_uri(b"GIF"), "not a JPEG"),
        (data_uri(CONTENT[:20]), "damaged"), (data_uri(b"\x89PNG\r\n\x1a\n" + bytes(50)), "damaged"),
        (data_uri(b"RIFF\x00\x00\x00\x00WEBPVP8X" + b"\xff" * 30), "limit of 50,000,000"),
        (data_uri(b"BM" + bytes(60)), "not a"),
        (data_uri(claiming(1001, 1000)), "1001 x 1000 pixels, over the limit of 1,000,000"),
        (data_uri(claiming(2**31 - 1, 2**31 - 1)), "limit of 1,000,000"), (data_uri(claiming(0, 5)), ""),
        (data_uri(bytes(3 << 20) + b"1"), "limit of 3,145,728 for a picture"), ("x" * 63, "no picture"),
        ("a" * 500, "not a JPEG"), ("/etc/" + "passwd/" * 40, "not base64"), ("../" * 40 + "etc/passwd", "no picture"),
        ("data:image/png," + "%41" * 400_000, "long; write it in base64"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_told_in_our_own_words(address: str, words: str) -> None:
    said = refused(address)
    assert words in said
    assert not any(
        word in said for word in ("PIL", "object", "Errno", "broken", "buffer", "BytesIO", "the given bytes")
    )


def test_a_large_picture_is_read_beside_the_others() -> None:
    content = png(600, 600) + bytes(2 << 20)  # what follows a picture is no part of it
    assert read(data_uri(content)) == content


def test_an_upload_is_looked_at_as_a_picture_that_is_written_out() -> None:
    reader = PictureReader(LIMITS)
    assert asyncio.run(reader.check(CONTENT, "image")) == CONTENT
    for content in (b"", b"text", CONTENT[:20], claiming(5000, 5000), bytes(4 << 20)):
        with pytest.raises(Refusal) as caught:
            asyncio.run(reader.check(content, "image"))
        assert caught.value.status == 422 and caught.value.field == "image"


def test_a_damage_behind_the_header_is_left_to_whoever_decodes() -> None:
    content = broken("PNG")
    assert read(data_uri(content)) == content


def test_what_a_request_has_fetched_has_a_limit() -> None:
    class Host(Fetcher):
        async def fetch(self, address: str, field: str) -> bytes:
            return CONTENT

    limits = Limits(body=2 * len(CONTENT))
    reader = PictureReader(limits, Host((), most_bytes=1, seconds=1))

    async def fetched(count: int) -> None:
        with holding(Ticket.of("client", 10)):
            for _ in range(count):
                await reader.read("https://images.example.org/a.png", "image")

    asyncio.run(fetched(2))
    with pytest.raises(Refusal, match=f"limit of {limits.body:,}"):
        asyncio.run(fetched(3))


def test_all_pictures_of_a_request_have_a_limit_together() -> None:
    def pictures(count: int) -> None:
        with holding(Ticket.of("client", 10)):
            for _ in range(count):
                read(data_uri(claiming(1000, 1000)))

    pictures(2)
    pictures(2)  # another request begins anew
    with pytest.raises(Refusal, match="2,500,000 together"):
        pictures(3)
