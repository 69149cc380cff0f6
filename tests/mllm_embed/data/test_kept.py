"""Columns to keep, read from files of rows: what the file says, or one sentence about what it says."""

from __future__ import annotations

import tarfile
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mllm_embed.data.sources import open_sources
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.store.kept.listed import ListedValues


def parquet(folder: Path, values: pa.Array) -> Path:
    """Write rows of words beside a column to keep."""
    ids = [f"r{number}" for number in range(len(values))]
    pq.write_table(pa.table({"id": ids, "text": ids, "kept": values}), folder / "rows.parquet")
    return folder / "rows.parquet"


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, BytesIO(content))
    return path


def kept(path: Path, *names: str) -> list[dict[str, Any]]:
    """Return what is kept of each row of a source."""
    listing = open_sources([path])
    listing.check_keep(names)
    values = ListedValues(listing).of(names)
    assert values is not None and list(values.row_of) == listing.ids
    return values.columns.rows(range(len(listing)))


def test_bytes_are_the_words_that_they_hold(tmp_path: Path) -> None:
    path = parquet(tmp_path, pa.array([b"red", None, "größer".encode()], pa.binary()))
    assert kept(path, "kept") == [{"kept": "red"}, {}, {"kept": "größer"}]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            pa.array([b"red", b"\x89PNG"]),
            'the column "kept" of .*rows.parquet: row 2 is 4 bytes that are no UTF-8 text',
        ),
        (pa.array([{"bytes": b"\x89PNG", "path": None}]), "row 1 holds pictures, which are not kept: leave it out"),
        (
            pa.array([Decimal(1), Decimal(2**53 + 1)], pa.decimal128(20)),
            r"row 2 holds the Decimal .* digits .*\(2\^53\)",
        ),
    ],
)
def test_what_would_be_kept_as_something_else_is_refused(tmp_path: Path, values: pa.Array, said: str) -> None:
    with pytest.raises(DataError, match=said):
        kept(parquet(tmp_path, values), "kept")


def test_decimal_numbers_are_kept_as_their_nearest(tmp_path: Path) -> None:
    values = pa.array([Decimal("19.99"), None, Decimal(-(2**53))], pa.decimal128(20, 2))
    assert kept(parquet(tmp_path, values), "kept") == [{"kept": 19.99}, {}, {"kept": -(2.0**53)}]


def test_the_first_sample_of_a_tar_shard_may_lack_columns(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"a.txt": b"", "a.jpg": b"x", "b.jpg": b"x", "b.json": b'{"price": 3}'})
    assert kept(path, "price") == [{}, {"price": 3}]
    with pytest.raises(ConfigError, match="no row of .*a.tar has a column 'prise'; did you mean 'price'?"):
        kept(path, "prise")
    tar(path, {"a.jpg": b"x"})
    with pytest.raises(ConfigError, match="no row of .*a.tar has a column 'price'$"):
        kept(path, "price")


def test_a_sample_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"a.jpg": b"x", "a.json": b"{}", "b.jpg": b"x", "b.json": b"{bad"})
    with pytest.raises(DataError, match="a.tar: row 2: its json cannot be read"):
        kept(path, "price")
