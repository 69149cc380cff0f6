"""What `pair-pictures` reads: pictures and their vectors, of a store or of any source, and their captions."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_embed.commands.model_options import load_embedder
from mllm_embed.errors import ConfigError, DataError

from .data_options import names_sources, read_sources

if TYPE_CHECKING:
    from mllm_embed import MLLMEmbedder
    from mllm_embed.data.sources import Listing
    from mllm_embed.store.gallery import StoreGallery

    from ..data.rows import MixedRows
    from ..data.source import DataSource
    from ..triplets.pictures.gallery import Pictures
    from ..triplets.pictures.make import Writer
    from ..triplets.pictures.pairs import PairFinder
    from ..triplets.pictures.rules import PairRule

VECTORS = "vectors"
_WRITTEN = ("format", "images", "pool", "column", "stage")


@dataclass
class PairData:
    """Pictures, a store of their vectors, and the model that made it.

    Args:
        arguments: of the command line.
        gallery: the store, or an index of it.
        pictures: by the store's ids.
        roots: folders that their names may start from.
        check: how triplets are checked: "embedder", "model" or "none".
        embedder: the model, once it is needed.
    """

    arguments: argparse.Namespace
    gallery: StoreGallery
    pictures: Pictures
    roots: list[str] = field(default_factory=list)
    check: str = "none"
    embedder: MLLMEmbedder | None = None

    @classmethod
    def open(cls, arguments: argparse.Namespace, rule: PairRule) -> PairData:
        """Open what the arguments name; pictures without vectors are embedded, which may take long.

        Raises DataError or ConfigError for what cannot be read, or a model that is missing or another than the store's.
        """
        from ..triplets.pictures.gallery import Pictures

        check = arguments.check or ("embedder" if arguments.model else "none")
        store = _stored(arguments)
        if store is not None:
            pictures = Pictures.of_store(store, arguments.caption_column)
            return cls(arguments, store, pictures, check=check)
        if arguments.model is None:
            raise ConfigError("--model is needed to embed the pictures; or give a store of them as DATA")
        if arguments.caption_column:
            raise ConfigError("--caption-column is of a store, and DATA is none; name captions with --column")
        listing, pictures, roots = _listed(arguments)
        return cls._embedded(arguments, listing, pictures, roots, check)

    @classmethod
    def _embedded(
        cls, arguments: argparse.Namespace, listing: Listing, pictures: Pictures, roots: list[str], check: str
    ) -> PairData:
        from mllm_embed.store.extract import encode_sources
        from mllm_embed.store.gallery import StoreGallery

        from ..triplets.pictures.gallery import made

        embedder = _loaded(arguments)
        folder = arguments.output / VECTORS / "pictures"
        done = encode_sources(embedder, listing, folder, batch_size=arguments.batch_size)
        return cls(arguments, StoreGallery(made(done, folder)), pictures, roots, check, embedder)

    def lend(self, writer: Writer) -> None:
        """Let a --local writer speak with the embedder's own base, where it is that, and not load it again."""
        from ..triplets.pictures.seeing import Seeing

        if isinstance(writer.answerer, Seeing) and self.arguments.local == self.arguments.model:
            writer.answerer.embedder = self.embedder

    def loaded(self) -> MLLMEmbedder:
        """Return the model of --model."""
        if self.embedder is None:
            if self.arguments.model is None:
                raise ConfigError("--model is needed, that of the store's vectors")
            self.embedder = _loaded(self.arguments)
        return self.embedder

    def needs_captions(self, rule: PairRule) -> bool:
        """Return whether pairs are found by captions."""
        from ..triplets.pictures.rules import CAPTION

        return (CAPTION in rule.by or rule.caption_cosines is not None) and not self.arguments.caption_store

    def describe(self, writer: Writer, words: int) -> None:
        """Have captions written of all pictures that have none."""
        from ..triplets.pictures.make import describe

        store = self.gallery.store
        names = [name for name in store.ids if name in store.living]
        describe(names, self.pictures, writer, words, self.arguments.output)

    def stores(self, rule: PairRule) -> Mapping[str, StoreGallery]:
        """Return a store for each similarity that a rule asks for and that can be had."""
        from ..triplets.pictures.gallery import embedded_captions
        from ..triplets.pictures.rules import CAPTION, PATTERN, PICTURE

        arguments, stores = self.arguments, {PICTURE: self.gallery}
        if arguments.pattern_store:
            stores[PATTERN] = _opened(arguments.pattern_store)
        if arguments.caption_store:
            stores[CAPTION] = _opened(arguments.caption_store)
        elif self.needs_captions(rule) and self.pictures.captions:
            living = self.gallery.store.living
            captions = {name: text for name, text in self.pictures.captions.items() if name in living}
            folder = arguments.output / VECTORS / "captions"
            stores[CAPTION] = embedded_captions(self.loaded(), captions, folder, arguments.batch_size)
        return stores

    def groups(self, column: str | None) -> dict[str, str]:
        """Return the group of each picture."""
        from ..triplets.pictures.gallery import groups_of
        from ..triplets.pictures.rules import FOLDER

        return groups_of(self.gallery, self.pictures, column or FOLDER)

    def told(self, rule: PairRule, finder: PairFinder) -> list[str]:
        """Return, a line each, what a person should know of the pairs that are looked for."""
        lines = [f"rule of {rule.title}; {rule.differs}"]
        lost = len(self.gallery.store.lost)
        if lost:
            lines.append(f"{lost:,} pictures cannot be read and are passed over: see unreadable.jsonl in the store")
        unmade = self.pictures.unmade
        if unmade:
            lines.append(f"left out, for they are not as they should be: {len(unmade):,} rows, the first: {unmade[0]}")
        missing = [name for name in rule.by if name not in finder.by]
        if missing:
            cures = {"pattern": "--pattern-store", "caption": "captions, or --describe"}
            lines.append(
                f"no pairs by {' and '.join(missing)}: that takes {' and '.join(cures[name] for name in missing)}"
            )
        if rule.grouped:
            lines.append(f"{finder.grouped:,} groups of two pictures or more")
        return lines


def _loaded(arguments: argparse.Namespace) -> MLLMEmbedder:
    return load_embedder(arguments, merge=arguments.local != arguments.model)


def _stored(arguments: argparse.Namespace) -> StoreGallery | None:
    """Return the store or index that DATA is; None where it is none."""
    from mllm_embed.index.files import SETTINGS_FILE
    from mllm_embed.store.files import MANIFEST

    folders = list(map(Path, arguments.data))
    stored = [folder for folder in folders if (folder / MANIFEST).is_file() or (folder / SETTINGS_FILE).is_file()]
    if not stored:
        return None
    if len(folders) > 1:
        raise ConfigError(f"{stored[0]} is a store: give it alone")
    return _opened(arguments.data[0])


def _opened(place: str) -> StoreGallery:
    from mllm_embed.search.places import shown_place, stored_gallery
    from mllm_embed.store.gallery import StoreGallery

    gallery = stored_gallery(place)
    if not isinstance(gallery, StoreGallery):
        raise ConfigError(f"{shown_place(place)} is no store or index on this machine, whose vectors can be read")
    return gallery


def _listed(arguments: argparse.Namespace) -> tuple[Listing, Pictures, list[str]]:
    """Return the pictures of what is no store, and the folders that they are given in."""
    from mllm_embed.data.sources import open_sources

    from ..triplets.pictures.gallery import Pictures, of_rows

    if _is_data(arguments):
        rows = _rows(arguments)
        roots = [str(root) for part in rows.parts for root in part.roots()]
        return *of_rows(rows, Path(arguments.data[0])), roots
    listing = open_sources(arguments.data)
    return listing, Pictures.of_listing(listing), [name for name in arguments.data if os.path.isdir(name)]


def _is_data(arguments: argparse.Namespace) -> bool:
    """Return whether DATA is what training reads: a data folder, a file of sources, or said how it is written."""
    from mllm_embed.data.folder import PAIRS, TRIPLETS

    if any(getattr(arguments, name) for name in _WRITTEN):
        return True
    paths = list(map(Path, arguments.data))
    listed = any(map(names_sources, arguments.data))
    return listed or any((path / name).is_file() for path in paths for name in (PAIRS, TRIPLETS))


def _rows(arguments: argparse.Namespace) -> MixedRows:
    """Return the rows of all sources, each read as what it has: pairs, or else triplets."""
    from ..data.open import open_rows
    from ..data.rows import MixedRows

    named = read_sources(arguments)
    parts = []
    for source in named.sources:
        kind = named.stage.rows if named.stage else _kind_of(source)
        parts += open_rows([source], kind, []).parts
    return MixedRows(parts)


def _kind_of(source: DataSource) -> str:
    """Return as what a source's rows are read for their pictures. Raises DataError for a format that has none."""
    from mllm_embed.data.folder import PAIRS

    from ..data.formats import FORMATS

    if source.format == "folder":
        return "pairs" if (source.path / PAIRS).is_file() else "triplets"
    found = [kind for kind in FORMATS[source.format].kinds if kind != "texts"]
    if not found:
        raise DataError(f"{source.path}: rows of format {source.format} have no pictures to pair")
    return "triplets" if "target_image" in source.columns and "triplets" in found else found[0]
