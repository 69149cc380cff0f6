"""Pictures of rows that were added over HTTP, kept as files that their content names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from ...files import write_file
from ...inputs.picture_files import check_format


class KeptPictures:
    """A folder of pictures."""

    def __init__(self, folder: Path):
        """Keep pictures in a folder, which is made with the first one."""
        self._folder, self._lock = folder.absolute(), Lock()

    @contextmanager
    def keeping(self, contents: Sequence[bytes | None]) -> Iterator[list[str | None]]:
        """Keep pictures, and give where they lie, None for none; where anything is raised within, none is kept."""
        places = [None if content is None else self._place(content) for content in contents]
        new: list[Path] = []
        with self._lock:  # or else one that fails takes away a picture that another has found there
            try:
                for place, content in zip(places, contents, strict=True):
                    if place is not None and content is not None and not place.exists():
                        write_file(place, content)
                        new.append(place)
                yield [None if place is None else str(place) for place in places]
            except BaseException:
                for place in new:
                    place.unlink(missing_ok=True)
                raise

    def _place(self, content: bytes) -> Path:
        """Return where a picture lies: no word of a client's is part of it."""
        ending = check_format(content, "the picture").lower()
        return self._folder / f"{hashlib.sha256(content).hexdigest()}.{ending}"
