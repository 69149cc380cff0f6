"""The Hugging Face hub: a saved model goes up in one commit, and a repository that holds one is read like a folder."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ModelError
from ..model.heads.files import HEAD_FILES
from ..model.heads.projection import MODULES_FILE
from ..model.loading import CONFIG_FILE, meant
from ..model.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from .settings import SETTINGS_FILE

# An earlier push may have left files of the other form: a whole model beside an adapter would be read as both.
STALE = [
    "*.safetensors", "*.safetensors.index.json", ADAPTER_CONFIG, CONFIG_FILE, "generation_config.json", *HEAD_FILES
]  # fmt: skip
SMALL = ["*.json", "*.jinja", "*.md", "*.txt", "*.model", ADAPTER_WEIGHTS, *HEAD_FILES]


def is_hub_id(name: str) -> bool:
    """Return whether a model's name can be that of a repository rather than of a folder here."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not name.startswith(".") and not Path(name).is_dir()


def push(
    save: Callable[[Path], None],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Create the repository where it does not exist, upload what `save` writes, and return the commit's address.

    Raises ModelError, in one sentence, for a bad name, a missing or refused token, and an unreachable hub.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as scratch, _sentences(repo_id):
        folder = Path(scratch) / "model"
        save(folder)
        api = HfApi(token=token, library_name="mllm_embed")
        api.create_repo(repo_id, private=private, repo_type="model", exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            repo_type="model",
            folder_path=folder,
            commit_message=commit_message or "Upload an embedding model",
            revision=revision,
            create_pr=create_pr,
            delete_patterns=STALE,
        )
    return str(commit.pr_url or commit.commit_url) if create_pr else str(commit.commit_url)


def check_base(base: str | None, folder: bool) -> None:
    """Raise ModelError for an adapter's base that others cannot get: a folder of this machine."""
    if base and (folder or not is_hub_id(base)):
        raise ModelError(
            f"the base of this adapter is the folder {base}, which only this machine has: "
            "push with merge=True, or load the base by its hub id"
        )


def fetched(name: str, file: str, revision: str | None = None) -> str:
    """Return the folder with all but the weights of a repository that has `file`; `name` itself for anything else.

    Files that are in the cache are not fetched again; offline, and where the hub does not answer, only the cache is
    looked at. Raises ModelError where it does not answer and the cache has nothing of the repository.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from transformers.utils import cached_file

    if not is_hub_id(name):
        return name
    try:
        if try_to_load_from_cache(name, file, revision=revision) is None and not _answers(name):
            return name
        found = cached_file(
            name,
            file,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):
        return name  # loading the model says what is wrong with the name
    if found is None:
        return name
    with _sentences(name):
        return snapshot_download(name, revision=revision, allow_patterns=SMALL)


def _answers(name: str) -> bool:
    """Return whether the hub answers, whatever it says of a repository; offline its client does so in its place.

    To be asked before a file is: the client tries a hub that does not answer for half a minute, and so for each file.
    Raises ModelError where it does not answer and the cache has nothing of the repository: its name may be the path of
    a folder, with a slip.
    """
    from huggingface_hub import constants, is_offline_mode
    from huggingface_hub.file_download import repo_folder_name

    if is_offline_mode() or _not_reached(name) is None:
        return True
    if Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"), "snapshots").is_dir():
        return False
    error = _not_reached(name)  # once more: nothing else is left
    if error is None:
        return True
    raise ModelError(
        f"{name} is no folder here, and as a hub id it cannot be looked up, since the hub cannot be reached "
        f"({_first_line(error)}){meant(name)}"
    ) from error


def _not_reached(name: str) -> Exception | None:
    """Return why the hub does not answer to one question about a repository; None where it answers anything."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, HTTPError

    try:
        get_hf_file_metadata(hf_hub_url(name, CONFIG_FILE))
    except (HfHubHTTPError, FileMetadataError):
        return None  # an answer
    except (HTTPError, ConnectionError, TimeoutError) as error:
        return error
    return None


def small_files(name: str, revision: str | None = None) -> str:
    """Return the folder with all but the weights of a repository that holds settings of ours, files of
    sentence-transformers, or an adapter, whoever wrote it; `name` itself for anything else."""
    found = (fetched(name, file, revision) for file in (SETTINGS_FILE, MODULES_FILE, ADAPTER_CONFIG))
    return next((folder for folder in found if folder != name), name)


def downloaded(name: str, patterns: list[str]) -> Path:
    """Return the folder with the files of a repository that match one of the patterns; `name` itself where it is none.

    Raises ModelError where the hub does not give them.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not is_hub_id(name):
        return Path(name)
    try:
        with _sentences(name):
            return Path(snapshot_download(name, allow_patterns=patterns))
    except LocalEntryNotFoundError as error:
        raise ModelError(f"{name} is no folder here, and was not got from the hub: {_first_line(error)}") from error


def holds(name: str, file: str, revision: str | None = None) -> bool:
    """Return whether a repository of the hub has a file; offline, whether the cache has it."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(try_to_load_from_cache(name, file, revision=revision), str):
        return True
    with _sentences(name):
        try:
            return HfApi().file_exists(name, file, revision=revision)
        except OfflineModeIsEnabled:
            return False


@contextmanager
def _sentences(repo_id: str) -> Iterator[None]:
    """Raise the errors of the hub's client as ModelError, one sentence each, with the cure."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        HTTPError,  # of the client's own HTTP library, which differs between its versions
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        yield
    except HFValidationError as error:
        raise ModelError(f"'{repo_id}' is not the name of a repository; give OWNER/NAME") from error
    except LocalTokenNotFoundError as error:
        raise ModelError(f"the hub wants a token for {repo_id}: run `hf auth login`, or give token=...") from error
    except OfflineModeIsEnabled as error:
        raise ModelError(f"{repo_id} was not reached: HF_HUB_OFFLINE is set, which forbids the network") from error
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", None)
        if code in (401, 403):
            raise ModelError(
                f"the hub refuses {repo_id} ({code}): run `hf auth login` with a token that may write there, "
                "or give token=..."
            ) from error
        raise ModelError(f"the hub refuses {repo_id}: {_first_line(error)}") from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise ModelError(f"the hub cannot be reached for {repo_id}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
