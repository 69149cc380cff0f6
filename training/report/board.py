"""TensorBoard's events of a run, whose file is named where the disk fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.integrations import TensorBoardCallback

from mllm_embed.files import disk_fails, writing


class Board(TensorBoardCallback):
    """transformers' own callback; its methods raise DataError for a disk that fails."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the file and write what the run is."""
        with writing(f"the events of TensorBoard in {args.output_dir}"):
            super().on_train_begin(args, state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write the figures of a line."""
        with writing(f"the events of TensorBoard in {args.output_dir}"):
            super().on_log(args, state, control, logs=logs, **kwargs)


@contextmanager
def untold_in_threads() -> Iterator[None]:
    """Within, keep Python from printing how a thread met a failing disk: TensorBoard hands that on to the next call."""
    before = threading.excepthook

    def told(failed: Any) -> None:
        if failed.exc_value is None or not disk_fails(failed.exc_value):
            before(failed)

    threading.excepthook = told
    try:
        yield
    finally:
        threading.excepthook = before
