"""`push_to_hub` up to the network, and loading from what is in the hub's cache."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import _http

from mllm_embed import MLLMEmbedder, PromptSet
from mllm_embed.encode.model_source import find_model
from mllm_embed.errors import ModelError
from mllm_embed.model.lora import LoraSpec, add_lora

SUFFIXES = {".json", ".safetensors", ".md", ".jinja"}


@pytest.fixture
def adapted(embedder: MLLMEmbedder) -> MLLMEmbedder:
    """As loaded from the hub id org/base."""
    add_lora(embedder.model, LoraSpec(rank=4), embedder.family)
    embedder.settings = replace(embedder.settings, base="org/base", base_fingerprint="abc")
    return embedder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would have gone over the wire: calls, with the contents of the folder at that moment."""
    calls: list[dict[str, Any]] = []

    def create_repo(self: HfApi, repo_id: str, **options: Any) -> None:
        calls.append({"call": "create_repo", "repo_id": repo_id, "token": self.token, **options})

    def upload_folder(self: HfApi, *, folder_path: Path, **options: Any) -> SimpleNamespace:
        files = {str(p.relative_to(folder_path)): p.read_bytes() for p in Path(folder_path).rglob("*") if p.is_file()}
        calls.append({"call": "upload_folder", "files": files, "token": self.token, **options})
        return SimpleNamespace(commit_url="https://hub/commit", pr_url="https://hub/pr")

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return calls


def test_an_adapter_goes_up_in_open_formats_and_without_our_paths(
    adapted: MLLMEmbedder, hub: list[dict[str, Any]], tiny_llava: Path
) -> None:
    assert adapted.push_to_hub("me/shoes", private=True, token="secret") == "https://hub/commit"
    created, uploaded = hub
    assert created == {
        "call": "create_repo", "repo_id": "me/shoes", "private": True, "repo_type": "model", "exist_ok": True,
        "token": "secret",
    }  # fmt: skip
    assert uploaded["repo_id"] == "me/shoes" and uploaded["create_pr"] is False and uploaded["revision"] is None
    files = uploaded["files"]
    assert {"adapter_model.safetensors", "adapter_config.json", "mllm_embed.json", "README.md"} <= files.keys()
    assert "model.safetensors" not in files and {Path(name).suffix for name in files} <= SUFFIXES
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "org/base"
    data = ModelCard(files["README.md"].decode()).data
    assert (data.base_model, data["base_model_relation"]) == ("org/base", "adapter")
    for name, content in files.items():
        for path in (tiny_llava.parent, Path.home(), Path.cwd()):
            assert str(path).encode() + b"/" not in content, name
        assert b"secret" not in content


def test_a_merged_model_a_branch_and_a_pull_request(adapted: MLLMEmbedder, hub: list[dict[str, Any]]) -> None:
    address = adapted.push_to_hub(
        "me/shoes", merge=True, revision="v2", commit_message="Shoes", create_pr=True, card={"license": "mit"}
    )
    assert address == "https://hub/pr"
    uploaded = hub[1]
    assert (uploaded["revision"], uploaded["commit_message"], uploaded["create_pr"]) == ("v2", "Shoes", True)
    assert "model.safetensors" in uploaded["files"] and "adapter_config.json" not in uploaded["files"]
    assert "adapter_config.json" in uploaded["delete_patterns"]  # else both forms would stand in the repository
    assert b"license: mit" in uploaded["files"]["README.md"]


def test_an_adapter_of_a_local_base_is_of_no_use_to_others(
    embedder: MLLMEmbedder, hub: list[dict[str, Any]], tiny_llava: Path
) -> None:
    add_lora(embedder.model, LoraSpec(rank=4), embedder.family)
    with pytest.raises(ModelError, match="which only this machine has: push with merge=True"):
        embedder.push_to_hub("me/shoes")
    assert not hub
    embedder.push_to_hub("me/shoes", merge=True)
    assert not any(str(tiny_llava.parent).encode() in content for content in hub[1]["files"].values())


def _refused(code: int) -> HfHubHTTPError:
    response = httpx2.Response(code, request=httpx2.Request("POST", "https://hub/api"))
    return HfHubHTTPError(f"{code} Client Error\nmore", response=response)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (LocalTokenNotFoundError("no token"), "wants a token for me/shoes: run `hf auth login`"),
        (_refused(401), r"refuses me/shoes \(401\): run `hf auth login` with a token that may write"),
        (_refused(403), r"refuses me/shoes \(403\)"),
        (_refused(500), "refuses me/shoes: 500 Client Error"),
        (httpx2.ConnectError("Name or service not known"), "cannot be reached for me/shoes: Name or service"),
        (None, "HF_HUB_OFFLINE is set"),
    ],
)
def test_a_refusal_is_one_sentence(
    adapted: MLLMEmbedder, monkeypatch: pytest.MonkeyPatch, error: Exception | None, sentence: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    if error is not None:  # without a patch the client refuses by itself: the tests are offline
        monkeypatch.setattr(HfApi, "create_repo", fail)
    with pytest.raises(ModelError, match=sentence) as caught:
        adapted.push_to_hub("me/shoes")
    assert "\n" not in str(caught.value)


def test_a_bad_name_is_one_sentence(adapted: MLLMEmbedder) -> None:
    with pytest.raises(ModelError, match="'a/b/c' is not the name of a repository; give OWNER/NAME"):
        adapted.push_to_hub("a/b/c")


def _cached(root: Path, name: str, commit: str, folder: Path) -> Path:
    """Fill a cache as the hub's client fills it; return the file that says which commit the main branch is at."""
    place = root / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / commit)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs/main").write_text(commit)
    return place / "refs/main"


@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
def test_a_pushed_model_loads_by_its_name_with_its_prompts(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merge: bool
) -> None:
    mine = PromptSet("mine", image="What?", composed="Now {instruction}", text="Word: {text}")
    embedder = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", prompts=mine)
    add_lora(embedder.model, LoraSpec(rank=4), embedder.family)
    embedder.settings = replace(embedder.settings, base="org/base", base_fingerprint=None)
    embedder.save_pretrained(tmp_path / "out", merge=merge)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name, folder in (("org/base", tiny_llava), ("me/shoes", tmp_path / "out")):
        _cached(tmp_path / "cache", name, "0" * 40, folder)
    pushed = MLLMEmbedder.from_pretrained("me/shoes")
    assert (pushed.prompts.name, pushed.model.adapted) == ("mine", not merge)
    assert pushed.settings.base == ("me/shoes" if merge else "org/base")
    assert pushed.encode(["a hat"]).shape == (1, 64)


def test_a_base_on_the_hub_is_known_by_its_commit(
    tiny_llava: Path, other_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its repository goes on to other weights: an adapter still gets those it was trained on, and refuses others."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    _cached(tmp_path / "cache", "org/base", "b" * 40, other_llava)
    branch = _cached(tmp_path / "cache", "org/base", "a" * 40, tiny_llava)
    embedder = MLLMEmbedder.from_pretrained("org/base", dtype="float32")
    add_lora(embedder.model, LoraSpec(rank=4), embedder.family)
    embedder.save_pretrained(tmp_path / "out")
    branch.write_text("b" * 40)
    again = MLLMEmbedder.from_pretrained(tmp_path / "out", dtype="float32")
    assert embedder.settings.base_fingerprint == "a" * 40
    assert abs(again.encode(["a hat"]) - embedder.encode(["a hat"])).max() < 1e-6
    with pytest.raises(ModelError, match="was trained on another base"):
        MLLMEmbedder.from_pretrained("org/base", adapter=tmp_path / "out")


def test_a_folder_is_never_taken_for_a_repository(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here/models").mkdir(parents=True)
    shutil.copytree(tiny_llava, tmp_path / "here/models/llava")
    monkeypatch.chdir(tmp_path / "here")
    embedder = MLLMEmbedder.from_pretrained("models/llava")
    add_lora(embedder.model, LoraSpec(rank=4), embedder.family)
    monkeypatch.chdir(tmp_path)
    embedder.save_pretrained("out")
    assert "base_model" not in ModelCard.load("out/README.md").data.to_dict()
    with pytest.raises(ModelError, match=r"the base model models/llava of out is not there; give it"):
        MLLMEmbedder.from_pretrained("out")
    with pytest.raises(ModelError, match="which only this machine has"):
        embedder.push_to_hub("me/shoes")


@pytest.fixture
def unreached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of a hub that cannot be reached by a process that is not offline; the waits of the hub's own client
    between its tries fail the test."""
    asked: list[str] = []

    def refused(self: httpx2.HTTPTransport, request: httpx2.Request) -> None:
        asked.append(str(request.url))
        raise httpx2.ConnectError("Name or service not known")

    def waited(*_: Any, **__: Any) -> None:
        raise AssertionError(f"the hub is tried again and again: {asked}")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", refused)
    monkeypatch.setattr(_http.time, "sleep", waited)
    return asked


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("runs/bse", r"runs/bse is no folder here, .* the hub cannot be reached \(.*\); did you mean 'runs/base'\?"),
        ("runs/of-others", r"cannot be reached \(.*\); the folder runs is here, and has no of-others"),
        (
            "owner/name",
            r"owner/name is no folder here, and as a hub id it cannot be looked up, .* \([^;]*\)$",
        ),
    ],
)
def test_a_misspelt_folder_is_told_at_once_where_the_hub_cannot_be_reached(
    unreached: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    (tmp_path / "runs/base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=sentence):
        MLLMEmbedder.from_pretrained(name)
    assert len(unreached) == 2


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("base", "base is no folder here, and no hub id, which is OWNER/NAME; did you mean 'bases'"),
        ("~/bases", "~/bases is not a folder with a model; check the path"),
        ("bases/big/instructions", "is not a folder with a model; did you mean 'bases/big/instruction'"),
        ("bases/big--2", "Cannot have -- or .. in repo_id: 'bases/big--2'"),
        ("./bases/big/instructions", "is not a folder with a model; did you mean 'bases/big/instruction'"),
    ],
)
def test_a_name_that_no_repository_can_have_is_not_asked_for(
    unreached: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    (tmp_path / "bases/big/instruction").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=sentence):
        MLLMEmbedder.from_pretrained(name)
    assert not unreached


def test_what_the_cache_has_is_all_there_is_while_the_hub_cannot_be_reached(
    unreached: list[str], tiny_llava: Path, tmp_path: Path
) -> None:
    _cached(tmp_path / "cache", "org/base", "0" * 40, tiny_llava)
    source = find_model("org/base")
    assert (source.base, source.folder, source.saved, source.has_adapter) == ("org/base", "org/base", None, False)
