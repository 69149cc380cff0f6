"""Streams: an order that is a function of (seed, epoch), the same after a stop and with any number of workers."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from mllm_embed.errors import DataError
from mllm_embed.training.data import DataSource, TrainingRow
from mllm_embed.training.data.open import open_rows
from mllm_embed.training.data.order import quotas, stream_order
from mllm_embed.training.data.replacement import replacement
from mllm_embed.training.data.rows import MixedRows
from mllm_embed.training.data.stream import StreamSampler

TAR = {"image": "jpg", "caption": "json.caption", "id": "__key__"}


def tar_shards(root: Path, shards: int, samples: int) -> Path:
    root.mkdir()
    for shard in range(shards):
        with tarfile.open(root / f"{shard:03d}.tar", "w") as tar:
            for sample in range(samples):
                key = f"{shard:03d}/{sample:04d}"
                words = json.dumps({"caption": f"picture {key}"}).encode()
                for name, data in ((f"{key}.jpg", f"pixels of {key}".encode()), (f"{key}.json", words)):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return root


def parquet_shards(root: Path, shards: int, rows: int, group: int = 7) -> Path:
    import pyarrow
    import pyarrow.parquet

    root.mkdir()
    for shard in range(shards):
        told = [
            {
                "n": f"p{shard}-{row}",
                "img": {"bytes": f"pixels {shard} {row}".encode(), "path": None},
                "txt": f"text {row}",
            }
            for row in range(rows)
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(told), root / f"{shard}.parquet", row_group_size=group)
    return root


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> MixedRows:
    """400 samples in tar files and 210 rows of parquet, as one stage reads them."""
    root = tmp_path_factory.mktemp("shards")
    sources = [
        DataSource(path=tar_shards(root / "tar", 4, 100), format="columns", columns=TAR, streaming=True),
        DataSource(
            path=parquet_shards(root / "parquet", 3, 70), format="columns", streaming=True,
            columns={"image": "img", "caption": "txt", "id": "n"},
        ),
    ]  # fmt: skip
    return open_rows(sources, "pairs", ["image", "caption"])


def ids(rows: list[TrainingRow]) -> list[str]:
    return [row.id for row in rows]


def loaded(rows: MixedRows, order: StreamSampler, workers: int) -> list[str]:
    loader = DataLoader(rows, batch_size=8, sampler=order, num_workers=workers, collate_fn=ids)
    return [name for batch in loader for name in batch]


def test_rows_of_shards_hold_undecoded_pictures(shards: MixedRows) -> None:
    row, last = shards[101], shards[len(shards) - 1]
    assert row.id == "001/0001" and row.roles["image"].image == b"pixels of 001/0001"
    assert row.roles["caption"].text == "picture 001/0001"
    assert last.id == "p2-69" and last.roles["image"].image == b"pixels 2 69"
    assert len(np.unique(shards.groups())) == len(shards) == 610
    assert Counter(shards.sources().tolist()) == {0: 400, 1: 210}


def test_parquet_gives_the_same_rows_streamed_and_mapped(tmp_path: Path) -> None:
    import datasets

    root = parquet_shards(tmp_path / "parquet", 2, 20)
    images = datasets.Dataset.from_dict(
        {"n": ["i"], "img": [{"bytes": b"pixels", "path": None}], "txt": ["text"]},
        features=datasets.Features(n=datasets.Value("string"), img=datasets.Image(), txt=datasets.Value("string")),
    )
    images.to_parquet(root / "z.parquet")
    columns = {"image": "img", "caption": "txt", "id": "n"}
    streamed, mapped = (
        open_rows([DataSource(path=root, format="columns", columns=columns, streaming=value)], "pairs", ["image"])
        for value in (True, False)
    )
    assert list(streamed) == list(mapped) and len(mapped) == 41
    assert mapped[40].roles["image"].image == b"pixels"
    assert np.array_equal(streamed.groups(), mapped.groups())
    for rows in (streamed.parts[0], mapped.parts[0]):
        assert list(rows.table.scan({"img"})) == [{"img": b"picture"}] * 41, "to group rows no picture is read"
    assert streamed.parts[0].name(25) == mapped.parts[0].name(25) == f"{root / '1.parquet'}: row 6"


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_change_nothing_of_a_stream(shards: MixedRows, workers: int) -> None:
    order = StreamSampler(shards, batch_size=8, seed=3)
    expected = [shards[number].id for number in order]
    assert len(set(expected)) == len(expected) == len(order) == 608
    assert loaded(shards, order, workers) == expected


def test_batches_belong_to_the_processes_in_turn(shards: MixedRows) -> None:
    """As accelerate deals them: batch b goes to process b % 3."""
    whole = np.array(list(StreamSampler(shards, batch_size=8, seed=3, processes=3))).reshape(-1, 3, 8)
    parts = shards.parts
    for rank in range(3):
        own = stream_order(
            [part.blocks() for part in parts], [len(part) for part in parts], [None, None], 8, 3, 0, rank, 3
        )
        assert np.array_equal(whole[:, rank].reshape(-1), own)


def test_order_is_a_function_of_seed_and_epoch(shards: MixedRows) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        stream = StreamSampler(shards, batch_size=8, seed=seed)
        stream.set_epoch(epoch)
        return stream.order().tolist()

    assert order(0, 1) == order(0, 1)
    assert order(0, 0) != order(0, 1) != order(1, 1)
    first = np.array(order(0, 0))
    assert np.abs(np.diff(first)).mean() > 50, "rows of far blocks and sources are mixed"


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_rows(world: int) -> None:
    blocks, lengths = [np.arange(0, 1000, 64), np.arange(0, 401, 10)], [1000, 401]
    orders = [stream_order(blocks, lengths, [None, None], 16, 0, 0, rank, world) for rank in range(world)]
    assert {len(order) for order in orders} == {(1000 // world + 401 // world) // 16 * 16}
    rows = np.concatenate(orders)
    assert len(np.unique(rows)) == len(rows) and rows.min() >= 0 and rows.max() < 1401


def test_weights_are_shares_of_an_epoch() -> None:
    blocks, lengths = [np.arange(0, 900, 30), np.arange(0, 100, 10)], [900, 100]
    assert quotas(lengths, [1.0, 1.0]) == [500, 500] and quotas(lengths, [None, 0.3]) == [750, 250]
    order = stream_order(blocks, lengths, [1.0, 1.0], 10, 0)
    counts = Counter(order.tolist())
    small = [count for row, count in counts.items() if row >= 900]
    assert sum(small) == 500 and set(small) == {5} and len(small) == 100
    assert all(count == 1 for row, count in counts.items() if row < 900)


def test_neighbours_on_disk_are_read_together() -> None:
    """Each block is read in one go: between its first and last row of a lane no more blocks come than a window has."""
    blocks = [np.arange(0, 100_000, 100)]
    order = stream_order(blocks, [100_000], [None], 10, 0)
    lane = order.reshape(-1, 10)[0::8].reshape(-1)
    block = lane // 100
    where = {number: np.flatnonzero(block == number) for number in np.unique(block)}
    assert max(places[-1] - places[0] for places in where.values()) < 8 * 100


def test_an_unreadable_row_gives_way_to_the_next(tmp_path: Path) -> None:
    root = tar_shards(tmp_path / "tar", 1, 50)
    with tarfile.open(root / "000.tar", "a") as tar:
        member = tarfile.TarInfo("000/9999.jpg")  # no caption beside it
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    rows = open_rows(
        [DataSource(path=root, format="columns", columns=TAR, streaming=True)], "pairs", ["image", "caption"]
    )
    assert len(rows) == 51
    with pytest.raises(DataError, match='000.tar: row 51: "json.caption" is missing or empty'):
        rows[50]
    assert rows[replacement(rows, 50, 1, seed=0)].id == "000/0000"


@pytest.mark.parametrize("path", ["https://example.org/{0..9}.tar", "hf://datasets/some/one", "someone/data"])
def test_only_local_paths(path: str) -> None:
    with pytest.raises((DataError, ValueError), match="nothing is downloaded"):
        open_rows([DataSource(path=path, format="columns", columns=TAR, streaming=True)], "pairs", ["image"])


def test_damaged_shards(tmp_path: Path) -> None:
    def opened(name: str, content: bytes, **source: Any) -> None:
        (tmp_path / name).write_bytes(content)
        open_rows([DataSource(path=tmp_path / name, format="columns", columns=TAR, **source)], "pairs", ["image"])

    with pytest.raises(DataError, match="a.tar is not a whole, uncompressed tar file"):
        opened("a.tar", b"not a tar file" * 100)
    for streaming in (False, True):
        with pytest.raises(DataError, match="a.parquet is not a parquet file"):
            opened("a.parquet", b"not parquet", streaming=streaming)
