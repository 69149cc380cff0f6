"""What keeps a search, or an upload, from answering is told as it is, in one sentence and before a model is loaded."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllm_embed.cli import main
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.search.searcher import stored_gallery
from mllm_embed.store.vector_store import VectorStore
from mllm_embed.vectors.unit import unit

SIZE = 8


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("store", "emptied"):
        store = VectorStore.create(tmp_path / name, SIZE)
        store.add([f"{row}.png" for row in range(9)], unit(np.random.default_rng(0).standard_normal((9, SIZE))))
    store.remove(store.ids)
    VectorStore.create(tmp_path / "begun", SIZE)
    (tmp_path / "photos").mkdir()
    for row in range(3):
        Image.new("RGB", (9, 9), (row, 0, 0)).save(tmp_path / f"photos/{row}.png")
    for name, ids in (
        ("few.txt", ["1.png", "2.png"]),
        ("one.txt", ["1.png"]),
        ("all.txt", [f"{row}.png" for row in range(9)]),
        ("three.txt", [f"{row}.png" for row in range(3)]),
        ("misspelt.txt", ["1.png", "l.png"]),
        ("blank.txt", [" "]),
    ):
        (tmp_path / name).write_text("\n".join(ids))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--gallery", "http://localhost:6333/photos"],
            "http://localhost:6333/photos is a URL, and nothing is downloaded",
        ),
        (["--gallery", "s3://bucket/store"], "s3://bucket/store is a URL, and nothing is downloaded"),
        (["--gallery", "rows.jsonl"], "rows.jsonl is a file: make a store of it with `mllm-embed encode`"),
        (["--gallery", "nowhere"], "nowhere is missing: give a store, an index, a Qdrant collection, a"),
        (["--gallery", "emptied"], "emptied holds no vectors any more: all were removed"),
        (["--gallery", "begun"], "begun holds no vectors yet: finish `mllm-embed encode`"),
        (["--gallery", "store", "-k", "0"], "-k must be at least 1, not 0"),
        (["--gallery", "store", "-k", "-3"], "-k must be at least 1, not -3"),
        (
            ["--gallery", "store", "--allow", "misspelt.txt"],
            'misspelt.txt: the id "l.png" is not in the 9 vectors of store',
        ),
        (
            ["--gallery", "photos", "--exclude", "misspelt.txt"],
            'misspelt.txt: the id "l.png" is not among the 3 pictures',
        ),
        (["--gallery", "store", "--allow", "blank.txt"], "blank.txt names no id: give one a line"),
        (["--gallery", "store", "--allow", "gone.txt"], "gone.txt cannot be read as ids, one a line (No such file"),
        (["--gallery", "store", "--allow", "bytes.txt"], "bytes.txt cannot be read as ids, one a line"),
        (["--gallery", "store", "--allow", "photos"], "photos cannot be read as ids, one a line (Is a directory)"),
        (
            ["--gallery", "store", "--allow", "https://x.org/a.txt"],
            "https://x.org/a.txt is a URL: nothing is downloaded",
        ),
        (
            ["--gallery", "store", "--image", "https://x.org/a.png"],
            "https://x.org/a.png is a URL: nothing is downloaded",
        ),
        (
            ["--gallery", "store", "--allow", "one.txt", "--exclude", "few.txt"],
            "few.txt excludes all that one.txt allows: nothing is left to answer",
        ),
        (["--gallery", "store", "--exclude", "all.txt"], "all.txt excludes all of store: nothing is left to answer"),
        (["--gallery", "photos", "--exclude", "three.txt"], "three.txt excludes all of photos: nothing is left to"),
    ],
)
def test_a_search_that_cannot_answer(
    home: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    # no model of that name is there: what is wrong is found before
    assert main(["search", "--model", "no-model", "--instruction", "a red car", *options]) == 2
    told = capsys.readouterr().err
    assert words in told and "exclude-reference" not in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("{", "--filter: the filter is no JSON such as"),
        ('{"price": {"~": 1}}', '--filter: the filter of "price" has the str "~" for an operator'),
        ('{"prise": 1}', "--filter: there is no column \"prise\" to filter by; did you mean 'price'"),
        ('{"price": "1"}', '--filter: the column "price" holds numbers, and the filter compares it with the str "1"'),
        ('{"price": {">": 8}}', "fits: nothing is left to answer"),
    ],
)
def test_a_filter_that_finds_nothing_is_told(
    home: Path, capsys: pytest.CaptureFixture[str], asked: str, words: str
) -> None:
    VectorStore.create(home / "priced", SIZE).add(["a", "b"], np.eye(2, SIZE), metadata=[{"price": 3}, {}])
    entries = [{"id": "a", "image": "photos/0.png"}, {"id": "b", "image": "photos/1.png", "price": 3, "size": {"x": 1}}]
    queries = [{"id": "q", "image": "photos/2.png", "instruction": "x", "targets": ["a"]}]
    (home / "benchmark.json").write_text(json.dumps({"name": "n", "gallery": entries, "queries": queries}))
    for place in ("priced", str(home)):
        search = ["search", "--model", "nowhere", "--instruction", "x", "--gallery", place, "--filter", asked]
        assert main(search) == 2
        assert words in capsys.readouterr().err


def test_a_filter_where_nothing_is_kept_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = '--filter: there is no column "price" to filter by: nothing is kept beside the vectors'
    for place in ("store", "photos"):
        search = ["search", "--model", "nowhere", "--instruction", "x", "--gallery", place, "--filter", '{"price": 1}']
        assert main(search) == 2
        assert words in capsys.readouterr().err


def test_galleries_that_are_none_are_told_from_python_too(home: Path) -> None:
    with pytest.raises(ConfigError, match="is a URL, and nothing is downloaded: .*qdrant:URL/COLLECTION"):
        stored_gallery("http://localhost/photos")
    with pytest.raises(DataError, match="nowhere is missing"):
        stored_gallery("nowhere")
    assert stored_gallery("photos") is None


@pytest.mark.parametrize(
    "command", [["upload", "store"], ["search", "--model", "m", "--instruction", "x", "--gallery"]]
)
def test_without_the_client_of_qdrant_its_package_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "qdrant_client"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "qdrant_client", None)  # as `import` leaves it where it is not installed
    assert main([*command, "qdrant:server/photos"]) == 2
    assert capsys.readouterr().err == 'error: Qdrant needs its client: pip install "mllm_embed[qdrant]"\n'


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (sqlite3.OperationalError("database or disk is full"), "database or disk is full"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(), "OSError"),
        (RuntimeError(""), "RuntimeError"),
    ],
)
def test_a_storage_that_fails_is_a_sentence_with_a_reason(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, words: str
) -> None:
    client = pytest.importorskip("qdrant_client", reason="needs pip install mllm_embed[qdrant]").QdrantClient

    def fails(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(client, "upsert", fails)
    assert main(["upload", "store", "qdrant:server/photos"]) == 2
    assert f"cannot be reached or used ({words})" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(home)
    assert main(["upload", "store", "qdrant:server/photos"]) == 0  # goes on
    assert "has 9" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="sets a limit of POSIX")
def test_a_full_disk_under_the_clients_own_storage(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("qdrant_client", reason="needs pip install mllm_embed[qdrant]")
    import resource
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        ended = main(["upload", "store", "qdrant:full/photos"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    told = capsys.readouterr().err
    assert ended == 2 and "cannot be reached or used" in told and "None" not in told


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            ["upload", "https://x.org/store", "qdrant:server/photos"],
            "https://x.org/store is a URL: nothing is downloaded",
        ),
        (
            ["upload", "store", "http://localhost:6333/photos"],
            "'http://localhost:6333/photos' names no Qdrant collection",
        ),
        (["upload", "begun", "qdrant:server/photos"], "begun holds no vectors yet"),
        (["upload", "store", "qdrant:few.txt/photos"], "the folder few.txt cannot be reached or used"),
    ],
)
def test_an_upload_that_cannot_be(
    home: Path, capsys: pytest.CaptureFixture[str], command: list[str], words: str
) -> None:
    pytest.importorskip("qdrant_client", reason="needs pip install mllm_embed[qdrant]")
    assert main(command) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [["export", "PLACE", "--to", "npy", "--output", "x"], ["index", "PLACE", "--kind", "flat"], ["check", "PLACE"]],
)
def test_no_message_repeats_a_password(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    place = "postgresql://me:secret@host/db#photos"
    assert main([place if word == "PLACE" else word for word in command]) == 2
    told = capsys.readouterr().err
    assert "secret" not in told and "postgresql://host/db#photos is a URL: nothing is downloaded" in told
