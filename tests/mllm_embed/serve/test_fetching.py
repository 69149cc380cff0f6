"""Pictures from addresses: only from hosts that were named, and never from inside, however an address is written."""

from __future__ import annotations

import asyncio
import ipaddress
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from attacks.picture_host import PictureHost, Sinkhole, png
from mllm_embed.errors import ConfigError
from mllm_embed.serve.fetching import AllowedHost, Fetcher
from mllm_embed.serve.guards.addresses import is_public, may_be_named
from mllm_embed.serve.refusals import Refusal

PUBLIC = "93.184.216.34"  # of the internet; nothing in these tests reaches it
PRIVATE = (
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.8.8.8", "169.254.169.254", "172.16.0.1", "192.0.0.8",
    "192.0.2.1", "192.168.1.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001:db8::1", "2002:7f00:1::", "2001:0:7f00:1::", "fc00::1",
    "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
)  # fmt: skip


class Detour(httpx.AsyncBaseTransport):
    """Takes requests to a port of this machine, wherever they would go, and keeps where that is."""

    def __init__(self, port: int, trusted: ssl.SSLContext | bool = True) -> None:
        self.port, self.went = port, []
        self._over_tcp = httpx.AsyncHTTPTransport(verify=trusted, trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.went.append(request.url.host)
        request.url = request.url.copy_with(host="127.0.0.1", port=self.port)
        return await self._over_tcp.handle_async_request(request)

    async def aclose(self) -> None:
        await self._over_tcp.aclose()


class Names:
    """A name server that says something else each time, the last thing for good."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers, self.asked = list(answers), 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture(scope="module")
def sinkhole() -> Iterator[Sinkhole]:
    made = Sinkhole()
    yield made
    made.close()


@pytest.fixture(scope="module")
def host(sinkhole: Sinkhole) -> Iterator[PictureHost]:
    made = PictureHost(f"http://127.0.0.1:{sinkhole.port}/secret")
    yield made
    made.close()


def fetch(
    address: str, allowed: Sequence[str], seconds: float = 5, most_bytes: int = 1 << 20, **hooks: object
) -> bytes:
    async def go() -> bytes:
        fetcher = Fetcher(map(AllowedHost.of, allowed), most_bytes=most_bytes, seconds=seconds, **hooks)
        try:
            return await fetcher.fetch(address, "image")
        finally:
            await fetcher.close()

    return asyncio.run(go())


def refused(address: str, allowed: Sequence[str], **hooks: object) -> str:
    """Return the sentence that an address is refused with, which leads nowhere."""
    with pytest.raises(Refusal) as caught:
        fetch(address, allowed, **hooks)
    assert caught.value.status == 422 and caught.value.field == "image"
    said = caught.value.message
    assert not any(word in said for word in ("127.0.0.1", "169.254", "Errno", "secret", "root:", "httpx", "SSL"))
    return said


def test_a_picture_of_an_allowed_host_comes_from_the_address_that_was_looked_at(host: PictureHost) -> None:
    names, detour = Names([PUBLIC], ["127.0.0.1"]), Detour(host.port)
    address = "http://images.example.org/picture.png"
    assert fetch(address, ["images.example.org"], resolve=names, transport=detour) == png()
    # the name is not asked a second time, when it would lead inside
    assert names.asked == 1 and detour.went == [PUBLIC]
    assert host.hosts[-1] == "images.example.org"
    assert not {"Cookie", "Authorization", "Referer"} & host.headers[-1].keys()


def test_nothing_is_fetched_unless_a_host_was_named(sinkhole: Sinkhole) -> None:
    assert "does not fetch from" in refused(f"http://127.0.0.1:{sinkhole.port}/", [])
    assert "--allow-host" in refused(f"http://127.0.0.1:{sinkhole.port}/", ["images.example.org"])
    for other in ("example.org", "xexample.org", "example.org.evil.net", "images.example.org", "example.com"):
        said = refused(f"http://{other}:{sinkhole.port}/", ["only.example.org", "*.sub.example.org"])
        assert "does not fetch from" in said
    assert sinkhole.connections == 0


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_leads_inside_is_refused_before_anybody_is_asked(address: str, sinkhole: Sinkhole) -> None:
    for answers in ([address], [PUBLIC, address]):  # one of several is enough
        detour = Detour(sinkhole.port)
        said = refused("http://images.example.org/a.png", ["*.example.org"], resolve=Names(answers), transport=detour)
        assert "private network" in said and detour.went == []
    assert sinkhole.connections == 0


def test_an_address_behind_a_translator_is_what_it_stands_for() -> None:
    for address in (PUBLIC, "2606:4700::6810:84e5", "64:ff9b::808:808", "::ffff:8.8.8.8"):
        assert is_public(ipaddress.ip_address(address))
    assert not may_be_named(ipaddress.ip_address("::ffff:169.254.169.254"))


@pytest.mark.parametrize(
    "written", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "[::1]", "[::ffff:7f00:1]", "localhost"]
)
def test_other_spellings_of_this_machine_are_no_host_that_was_named(written: str, sinkhole: Sinkhole) -> None:
    refused(f"http://{written}:{sinkhole.port}/a.png", ["127.0.0.1", "*.example.org"])
    # and where somebody names one, the system's own resolver reads it, and what it says is looked at
    if not written.startswith("["):
        said = refused(f"http://{written}:{sinkhole.port}/a.png", [f"{written}:{sinkhole.port}"])
        assert "private network" in said or "could not be fetched" in said
    assert sinkhole.connections == 0


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd", "ftp://images.example.org/a", "gopher://images.example.org:70/_x", "jar:http://a!/b",
        "//images.example.org/a.png", "\\\\images.example.org\\a.png", "/etc/passwd", "../../etc/passwd", "C:\\a.png",
        "http:/images.example.org/a.png", "http:images.example.org", "http://", "http:///a.png", "http://:80/",
        "http://user:pass@images.example.org/a.png", "http://images.example.org@127.0.0.1/",
        "http://127.0.0.1\\@images.example.org/", "http://127.0.0.1#@images.example.org/",
        "http://images.example.org:80:81/", "http://images.example.org:0/", "http://images.example.org:65536/",
        "http://images.example.org:99999999/", "http://images.example.org./a.png", "http://images..example.org/",
        "http://images.example.org%2f@127.0.0.1/", "http://%31%32%37.0.0.1/", "http://images\u3002example\u3002org/",
        "http://images.example.org\uff0f.evil.net/", "http://\u24d4xample.org/", "http://images.example.org/a b.png",
        "http://images.example.org/a\r\nHost: 127.0.0.1\r\n\r\n", "http://images.example.org/%0", "http://a\tb/",
        "http://images.example.org\n/", "http://images.example.org/\x00", "http://[fe80::1%25eth0]/", "http://[::1/",
        "http://images.example.org/" + "a" * 3000, "", " ", "javascript:alert(1)", "data", "http://[v1.a]/",
    ],
)  # fmt: skip
def test_what_is_not_plainly_an_address_is_refused_as_it_stands(address: str, sinkhole: Sinkhole) -> None:
    detour = Detour(sinkhole.port)
    refused(address, ["images.example.org", "*.example.org"], resolve=Names([PUBLIC]), transport=detour)
    assert detour.went == [] and sinkhole.connections == 0


def test_only_the_ports_of_the_web_are_asked_unless_one_is_named(host: PictureHost) -> None:
    hooks = {"resolve": Names([PUBLIC]), "transport": Detour(host.port)}
    for port in (22, 6379, 8080, 443):
        assert "does not fetch from" in refused(f"http://images.example.org:{port}/picture.png", ["images.example.org"])
    assert fetch("http://images.example.org:80/picture.png", ["images.example.org"], **hooks) == png()
    assert fetch("http://images.example.org:8080/picture.png", ["images.example.org:8080"], **hooks) == png()
    assert host.hosts[-1] == "images.example.org:8080"
    assert "does not fetch from" in refused("http://images.example.org/picture.png", ["images.example.org:8080"])


@pytest.mark.parametrize("path", ["/to-metadata", "/to-elsewhere"])
def test_a_redirect_is_not_followed(path: str, host: PictureHost, sinkhole: Sinkhole) -> None:
    detour = Detour(host.port)
    hooks = {"resolve": Names([PUBLIC]), "transport": detour}
    assert "redirect" in refused(f"http://images.example.org{path}", ["images.example.org"], **hooks)
    assert len(detour.went) == 1 and sinkhole.connections == 0


@pytest.mark.parametrize(
    ("path", "said"),
    [("/missing", "status 404"), ("/endless", "limit of 1,048,576"), ("/dribble", "limit of 0.5 seconds")],
)
def test_an_answer_has_a_size_and_a_time(path: str, said: str, host: PictureHost) -> None:
    hooks = {"resolve": Names([PUBLIC]), "transport": Detour(host.port)}
    seconds = 0.5 if path == "/dribble" else 30
    assert said in refused(f"http://images.example.org{path}", ["images.example.org"], seconds=seconds, **hooks)


def test_a_packed_answer_is_not_unpacked(host: PictureHost) -> None:
    hooks = {"resolve": Names([PUBLIC]), "transport": Detour(host.port)}
    got = fetch("http://images.example.org/packed", ["images.example.org"], **hooks)
    assert len(got) < 100_000 and got[:2] == b"\x1f\x8b"
    assert host.headers[-1]["Accept-Encoding"] == "identity"


def test_a_host_of_ones_own_network_is_asked_at_the_address_it_was_named_with(host: PictureHost) -> None:
    nobody = Names([])  # fails where it is asked
    nobody.answers = []
    address = f"http://images.corp:{host.port}/picture.png"
    assert fetch(address, [f"images.corp:{host.port}=127.0.0.1"], resolve=nobody) == png()
    assert host.hosts[-1] == f"images.corp:{host.port}" and nobody.asked == 0
    assert fetch(f"http://127.0.0.1:{host.port}/picture.png", [f"127.0.0.1:{host.port}"], resolve=nobody) == png()


def test_the_next_address_is_asked_where_nothing_listens_at_one(host: PictureHost) -> None:
    class FirstIsDown(Detour):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if not self.went:
                self.went.append(request.url.host)
                raise httpx.ConnectError("nobody there")
            return await super().handle_async_request(request)

    detour = FirstIsDown(host.port)
    names = Names(["2606:4700::6810:84e5", PUBLIC])
    assert fetch("http://images.example.org/picture.png", ["images.example.org"], resolve=names, transport=detour)
    assert detour.went == ["2606:4700::6810:84e5", PUBLIC]


def test_what_cannot_be_reached_or_resolved_is_said_in_one_sentence(sinkhole: Sinkhole) -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError("[Errno -2] Name or service not known")

    closed = Sinkhole()
    closed.close()
    said = {
        refused("http://images.example.org/", ["images.example.org"], resolve=unknown),
        refused("http://images.example.org/", ["images.example.org"], resolve=Names(["nonsense"])),
        refused(f"http://127.0.0.1:{closed.port}/", [f"127.0.0.1:{closed.port}"]),
        refused(f"http://127.0.0.1:{sinkhole.port}/", [f"127.0.0.1:{sinkhole.port}"]),  # closes without an answer
    }
    assert said == {"image could not be fetched; check the address, or send the picture itself"}
    sinkhole.connections = 0


def test_no_proxy_of_the_environment_is_used(
    host: PictureHost, sinkhole: Sinkhole, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{sinkhole.port}")
    assert fetch(f"http://127.0.0.1:{host.port}/picture.png", [f"127.0.0.1:{host.port}"]) == png()
    assert sinkhole.connections == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes a certificate, is not installed")
def test_a_certificate_is_checked_against_the_name_and_not_the_address(tmp_path: Path) -> None:
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", tmp_path / "key", "-out", tmp_path / "cert", "-days", "2", "-subj", "/CN=test",
            "-addext", "subjectAltName=DNS:images.example.org",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    host = PictureHost(tls=tls)
    trusted = ssl.create_default_context(cafile=str(tmp_path / "cert"))
    allowed = ["images.example.org", "other.example.org"]

    def hooks(trust: ssl.SSLContext | bool) -> dict[str, object]:
        return {"resolve": Names([PUBLIC]), "transport": Detour(host.port, trust)}

    assert fetch("https://images.example.org/picture.png", allowed, **hooks(trusted)) == png()
    assert "could not be fetched" in refused("https://other.example.org/picture.png", allowed, **hooks(trusted))
    assert "could not be fetched" in refused("https://images.example.org/picture.png", allowed, **hooks(True))
    host.close()


@pytest.mark.parametrize(
    "text",
    [
        "", "*", "*.", "*.org", "http://images.example.org", "images.example.org/", "user@host",
        "images.example.org:0", "images.example.org:99999", "169.254.169.254", "a=169.254.169.254", "[fd00:ec2::254]",
        "a=::ffff:169.254.169.254", "0.0.0.0", "224.0.0.1", "a=b", "*.example.org=10.0.0.1", "images example.org",
        "\u24d4xample.org",
    ],
)  # fmt: skip
def test_hosts_that_cannot_be_allowed_are_refused_at_the_start(text: str) -> None:
    with pytest.raises(ConfigError):
        AllowedHost.of(text)


def test_what_a_host_is_named_with_is_read() -> None:
    assert AllowedHost.of("Images.Example.org") == AllowedHost("images.example.org")
    assert AllowedHost.of("*.example.org:8443") == AllowedHost("example.org", subdomains=True, port=8443)
    private = ipaddress.ip_address("10.1.2.3")
    assert AllowedHost.of("images.corp=10.1.2.3") == AllowedHost("images.corp", address=private)
    assert AllowedHost.of("10.1.2.3:81") == AllowedHost("10.1.2.3", port=81, address=private)
    assert AllowedHost.of("[::1]").host == "::1"
    assert AllowedHost.of("*.example.org").matches("http", "a.b.example.org", 80)
    assert not AllowedHost.of("*.example.org").matches("http", "example.org", 80)
