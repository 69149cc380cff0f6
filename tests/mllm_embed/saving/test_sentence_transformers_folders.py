"""Folders that sentence-transformers loads, read by their own files: the vectors of the installed version."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.base.modules.transformer import AutoProcessor
from transformers import AutoModel

import families
from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.convert.pickled import convert_weights
from mllm_embed.encode.model_source import find_model
from mllm_embed.errors import DataError, ModelError
from mllm_embed.model.processor_loading import load_processor
from mllm_embed.saving import hub
from mllm_embed.saving.sentence_transformers_folder import read_sentence_files

STATES = {"method": "forward", "method_output_name": "last_hidden_state"}
CHATS = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": STATES, "image": STATES, "message": {**STATES, "format": "structured"}},
    "module_output_name": "token_embeddings",
}
PROMPTS = {"query": "Find the picture that is asked for.", "document": "Represent the input."}
WORDS = ["a red hat", "  two words, and white space ", "one", "a white horse in front of a black door with {text}"]
_STOCK = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"


def _write(folder: Path, name: str, values: Any) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(values))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def base(family: str) -> Path:
        if family not in made:
            made[family] = families.make(family, tmp_path_factory.mktemp(family))
        return made[family]

    return base


@pytest.fixture
def folder(bases: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Copy a tiny model and write files of sentence-transformers beside it."""

    def write(
        family: str = "llava_next",
        module: dict[str, Any] | None = CHATS,
        pooling: dict[str, Any] | None = None,
        model: dict[str, Any] | None = None,
        dense: int = 0,
        normalize: bool = True,
    ) -> Path:
        home = tmp_path / "model"
        shutil.copytree(bases(family), home)
        if module is not None:
            _write(home, "sentence_bert_config.json", module)
        _write(home, "1_Pooling/config.json", {"embedding_dimension": 64, **(pooling or {"pooling_mode": "lasttoken"})})
        _write(home, "config_sentence_transformers.json", {"prompts": PROMPTS} if model is None else model)
        kinds = [("", "sentence_transformers.models.Transformer"), ("1_Pooling", _STOCK)]
        width = 64
        for number in range(2, 2 + dense):
            torch.manual_seed(number)
            (home / f"{number}_Dense").mkdir()
            Dense(width, 24, use_residual=number > 2).save(str(home / f"{number}_Dense"))
            kinds.append((f"{number}_Dense", "sentence_transformers.models.Dense"))
            width = 24
        if normalize:
            kinds.append(("9_Normalize", "sentence_transformers.models.Normalize"))
        modules = [{"idx": n, "name": str(n), "path": path, "type": kind} for n, (path, kind) in enumerate(kinds)]
        _write(home, "modules.json", modules)
        return home

    return write


def _theirs(folder: Path, monkeypatch: pytest.MonkeyPatch | None = None) -> SentenceTransformer:
    if monkeypatch is not None:  # whose processor has a part for videos, which needs torchvision
        monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda name, **options: load_processor(name))
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def _ours(folder: Path) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu")


def _close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-5)


def _same_for_all_inputs(theirs: SentenceTransformer, ours: MLLMEmbedder, data: Path, **options: Any) -> None:
    paths = sorted((data / "images").glob("*.png"))[:4]
    pictures = [Image.open(path) for path in paths]
    both = [{"image": picture, "text": words} for picture, words in zip(pictures, WORDS, strict=True)]
    expected = theirs.encode_query(WORDS, **options)
    assert np.abs(expected[0] - expected[2]).max() > 1e-3
    _close(ours.encode_query(WORDS), expected)
    _close(ours.encode_document(WORDS), theirs.encode_document(WORDS, **options))
    _close(ours.encode_query([Query(path) for path in paths]), theirs.encode_query(pictures, **options))
    _close(ours.encode_document(paths), theirs.encode_document(pictures, **options))
    _close(ours.encode_query(both), theirs.encode_query(both, **options))
    documents = [Document(path, words) for path, words in zip(paths, WORDS, strict=True)]
    _close(ours.encode_document(documents), theirs.encode_document(both, **options))


@pytest.mark.parametrize("family", ["qwen3_vl", "llava_next"])
@pytest.mark.parametrize("generation_prompt", [True, None])
def test_a_chat_model_gives_its_vectors(
    folder: Callable[..., Path],
    data: Path,
    family: str,
    generation_prompt: bool | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = {} if generation_prompt is None else {"add_generation_prompt": generation_prompt}
    home = folder(family, {**CHATS, "processing_kwargs": {"chat_template": asked}})
    theirs = _theirs(home, monkeypatch if family == "qwen3_vl" else None)
    _same_for_all_inputs(theirs, _ours(home), data)


def test_without_prompts_there_is_no_system_message(folder: Callable[..., Path], data: Path) -> None:
    home = folder(model={})
    ours, theirs = _ours(home), _theirs(home)
    assert "system" not in ours.item_processor.render(Query(text="a hat"))
    _same_for_all_inputs(theirs, ours, data)
    prompt = "Say it."
    _close(ours.encode_query([Query(text="a hat")], task=prompt), theirs.encode_query(["a hat"], prompt=prompt))


def test_a_text_model_has_prompts_in_front_and_refuses_pictures(folder: Callable[..., Path], data: Path) -> None:
    home = folder(module={"max_seq_length": 512}, model={"prompts": {"query": "query: ", "passage": "passage: "}})
    ours, theirs = _ours(home), _theirs(home)
    _close(ours.encode_query(WORDS), theirs.encode_query(WORDS))
    _close(ours.encode_document(WORDS), theirs.encode_document(WORDS))  # "passage" is not looked at
    assert np.abs(ours.encode_query(WORDS[:1]) - ours.encode_document(WORDS[:1])).max() > 0.01
    for item in (data / "images/0.png", Query(data / "images/0.png", "red")):
        with pytest.raises(DataError, match="are for texts alone, and a .* has a picture"):
            ours.encode([item])
    ours.save_pretrained(home.parent / "again")
    _close(_theirs(home.parent / "again").encode_query(WORDS), theirs.encode_query(WORDS))


@pytest.mark.parametrize("module", [CHATS, {}])
def test_start_tokens_are_added_as_there(folder: Callable[..., Path], data: Path, module: dict[str, Any]) -> None:
    home = folder(module=module)
    tokens = json.loads((home / "tokenizer.json").read_text())
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    tokens["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [start, text],
        "pair": [start, text, text],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    (home / "tokenizer.json").write_text(json.dumps(tokens))
    ours, theirs = _ours(home), _theirs(home)
    assert ours.item_processor([Query(text="a")])["input_ids"][0, 0] == 1
    _close(ours.encode_query(WORDS), theirs.encode_query(WORDS))
    if module:
        _same_for_all_inputs(theirs, ours, data)


@pytest.mark.parametrize("dense", [1, 2])
def test_dense_layers_and_vectors_that_are_not_normalised(folder: Callable[..., Path], data: Path, dense: int) -> None:
    home = folder(dense=dense, normalize=dense == 1)
    ours = _ours(home)
    assert ours.dimension == 24
    _same_for_all_inputs(_theirs(home), ours, data, normalize_embeddings=True)


@pytest.mark.parametrize(
    ("mode", "dense"), [("mean", 0), ("cls", 0), ("max", 0), ("weightedmean", 0), ("mean_sqrt_len_tokens", 1)]
)
def test_every_pooling_is_done(folder: Callable[..., Path], data: Path, mode: str, dense: int) -> None:
    home = folder(pooling={"pooling_mode": mode}, dense=dense)
    ours, theirs = _ours(home), _theirs(home)
    paths = sorted((data / "images").glob("*.png"))[:2]
    _close(ours.encode_query(WORDS), theirs.encode_query(WORDS))
    _close(ours.encode_document(paths), theirs.encode_document([Image.open(path) for path in paths]))
    ours.save_pretrained(home.parent / "again")
    _close(_theirs(home.parent / "again").encode_query(WORDS), ours.encode_query(WORDS))


def test_its_own_template_variables_and_pixels_are_used(folder: Callable[..., Path], data: Path) -> None:
    template = (
        "\n{% for m in messages %}[{{ m.role }}]{% for part in m.content %}{% if part.type == 'image' %}<image>"
        "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}{{ ending }}"
    )
    asked = {"chat_template": template, "ending": 'in "one" word:\n', "restore_suffix": True}
    processing = {"chat_template": asked, "image": {"image_mean": [0.1, 0.2, 0.3]}, "text": {"truncation": False}}
    home = folder(module={**CHATS, "processing_kwargs": processing, "processor_kwargs": {"do_normalize": True}})
    theirs, ours = _theirs(home), _ours(home)
    assert ours.item_processor.render(Query(text="a hat")).endswith('a hatin "one" word:\n')
    _same_for_all_inputs(theirs, ours, data)
    before = ours.encode(sorted((data / "images").glob("*.png")))
    ours.save_pretrained(home.parent / "again")
    again = _ours(home.parent / "again")
    _close(again.encode(sorted((data / "images").glob("*.png"))), before)
    _same_for_all_inputs(_theirs(home.parent / "again"), ours, data)
    assert {**again.provenance, "name": None, "base": None} == {**ours.provenance, "name": None, "base": None}


def test_pixel_limits_of_a_call(folder: Callable[..., Path], data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processing = {"image": {"size": {"shortest_edge": 256, "longest_edge": 512}}}
    home = folder("qwen3_vl", {**CHATS, "processing_kwargs": processing})
    ours = _ours(home)
    assert ours.processor.image_processor.size["longest_edge"] == 512
    _same_for_all_inputs(_theirs(home, monkeypatch), ours, data)


def test_weights_are_loaded_on_a_gpu_in_the_type_that_the_file_says(folder: Callable[..., Path]) -> None:
    home = folder(module={**CHATS, "model_args": {"torch_dtype": "float16", "attn_implementation": "sdpa"}})
    source = find_model(home)
    assert source.dtype("auto", torch.device("cuda")) == torch.float16
    assert source.dtype("float32", torch.device("cuda")) == torch.float32


def test_inputs_that_would_be_cut_are_refused(folder: Callable[..., Path]) -> None:
    home = folder(module={**CHATS, "max_seq_length": 60}, model={})
    ours, theirs = _ours(home), _theirs(home)
    short, long = "a red hat", "a red hat " * 40
    _close(ours.encode_query([short]), theirs.encode_query([short]))
    with pytest.raises(DataError, match="over the limit of 60"):
        ours.encode_query([long])
    config = json.loads((home / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 40
    (home / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="over the limit of 40"):
        _ours(home).encode_query([long])


def _changed(name: str, change: dict[str, Any]) -> Callable[[Path], None]:
    def change_file(home: Path) -> None:
        path = home / name
        path.write_text(json.dumps((json.loads(path.read_text()) if path.is_file() else {}) | change))

    return change_file


def _module(kind: str, at: int = 1) -> Callable[[Path], None]:
    def change_file(home: Path) -> None:
        modules = json.loads((home / "modules.json").read_text())
        modules[at]["type"] = kind
        (home / "modules.json").write_text(json.dumps(modules))

    return change_file


_SENTENCE, _MODEL = "sentence_bert_config.json", "config_sentence_transformers.json"
_IMAGES = {"text": STATES, "image": {"method": "get_image_features", "method_output_name": "pooler_output"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_module("custom_st.Transformer", 0), "custom_st.Transformer, which is code that comes with the model"),
        (_module("sentence_transformers.models.Router"), "has the module sentence_transformers.models.Router"),
        (_module("sentence_transformers.models.WordEmbeddings", 0), "the module .*WordEmbeddings"),
        (_module("sentence_transformers.models.Normalize"), "Transformer, Normalize, Normalize, in another order"),
        (lambda home: (home / "modules.json").unlink(), "has config_sentence_transformers.json but no modules.json"),
        (lambda home: (home / "modules.json").write_text("[1]"), "modules.json is damaged"),
        (_changed(_MODEL, {"model_type": "SparseEncoder"}), "is of a SparseEncoder"),
        (_changed(_MODEL, {"similarity_fn_name": "manhattan"}), "scores by 'manhattan'"),
        (_changed(_MODEL, {"prompts": {"query": 1}}), "prompts is no object of texts"),
        (_changed(_MODEL, {"prompts": {"query": "half \ud800"}}), "prompts is no object of texts"),
        (_changed("1_Pooling/config.json", {"embedding_dimension": "x"}), "embedding_dimension is 'x', not a length"),
        (_changed(_MODEL, {"default_prompt_name": "ask"}), "there is no prompt 'ask', its default"),
        (_changed(_SENTENCE, {"transformer_task": "any-to-any"}), 'sets transformer_task to "any-to-any"'),
        (_changed(_SENTENCE, {"do_lower_case": True}), "sets do_lower_case to true"),
        (_changed(_SENTENCE, {"query_length": 32}), "sets query_length to 32"),
        (_changed(_SENTENCE, {"own_key": 32}), "sets own_key to 32"),
        (_changed(_SENTENCE, {"config_args": {"is_causal": False}}), "sets config_kwargs.is_causal"),
        (_changed(_SENTENCE, {"model_kwargs": {"quantization_config": {}}}), "sets model_kwargs.quantization_config"),
        (_changed(_SENTENCE, {"processor_kwargs": {"use_fast": False}}), "sets processor_kwargs.use_fast"),
        (_changed(_SENTENCE, {"modality_config": _IMAGES}), "takes pictures past the chat template"),
        (_changed(_SENTENCE, {"modality_config": {"message": STATES}}), "takes no texts"),
        (_changed(_SENTENCE, {"processing_kwargs": {"image": {"new": 1}}}), "has no setting 'new'"),
        (_changed(_SENTENCE, {"processing_kwargs": {"chat_template": {"tools": []}}}), "chat_template.tools"),
        (_changed(_SENTENCE, {"processing_kwargs": {"chat_template": {"new": 1}}}), "new, which is no variable of it"),
        (_changed(_SENTENCE, {"processing_kwargs": {"chat_template": {"chat_template": "{{ messages }}"}}}), "flat"),
        (
            _changed(_SENTENCE, {"processing_kwargs": {"chat_template": {"chat_template": "{{ task }}.type"}}}),
            "asks for the side of a search",
        ),
        (_changed(_SENTENCE, {"processing_kwargs": 1}), "processing_kwargs is no JSON object"),
        (_changed("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}), r"pools by \[\"mean\", \"max\"\]"),
        (_changed("9_Normalize/config.json", {"module_input_name": "token_embeddings"}), "sets module_input_name"),
        (_changed("config.json", {"text_config": {"is_causal": False}}), "attention that looks ahead"),
        (_changed("config.json", {"model_type": "paligemma"}), "whose processor takes no text without a picture"),
    ],
)
def test_what_is_not_done_exactly_is_refused_by_name(
    folder: Callable[..., Path], change: Callable[[Path], None], message: str
) -> None:
    home = folder(module={**CHATS, "modality_config": {**CHATS["modality_config"], "message": STATES}})
    (home / "9_Normalize").mkdir()
    change(home)
    with pytest.raises(ModelError, match=message):
        read_sentence_files(home).prepare(load_processor(str(home)))


def test_a_prompt_that_is_left_out_of_pooling_counts_for_texts_alone(folder: Callable[..., Path], data: Path) -> None:
    pooling = {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False, "include_prompt": False}
    home = folder(pooling=pooling)
    _same_for_all_inputs(_theirs(home), _ours(home), data)
    (home / _SENTENCE).unlink()
    with pytest.raises(ModelError, match="leaves the prompt out of pooling"):
        read_sentence_files(home)


def test_a_score_by_lengths_needs_vectors_of_one_length(folder: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="scores by 'dot' vectors that are not normalised"):
        read_sentence_files(folder(model={"similarity_fn_name": "dot"}, normalize=False))


def test_folders_without_such_files_and_our_own_are_not_read(
    bases: Callable[[str], Path], saved_models: dict[str, Path]
) -> None:
    assert read_sentence_files(bases("llava_next")) is None
    assert read_sentence_files(saved_models["merged"]) is None and read_sentence_files(saved_models["adapter"]) is None


def test_of_a_repository_all_is_fetched_but_the_weights_of_its_base(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = folder(dense=2)
    files = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
    fetched = list(filter_repo_objects(files, allow_patterns=hub.SMALL))
    assert set(files) - set(fetched) == {"model.safetensors"}
    there = {"org/theirs": "modules.json", "org/ours": "mllm_embed.json"}
    monkeypatch.setattr(hub, "fetched", lambda name, file, _: "/cache" if there.get(name) == file else name)
    assert [hub.small_files(name) for name in (*there, "org/plain")] == ["/cache", "/cache", "org/plain"]


@pytest.mark.parametrize("files", ["its own", "those of its base"])
def test_an_adapter_is_asked_as_its_files_say_or_those_of_its_base(
    folder: Callable[..., Path], tmp_path: Path, data: Path, files: str
) -> None:
    home = folder(dense=1)
    base, adapter = home, tmp_path / "adapter"
    torch.manual_seed(0)
    options = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(AutoModel.from_pretrained(base), options).save_pretrained(adapter)
    processors = [path for path in base.iterdir() if path.stem in ("tokenizer", "tokenizer_config", "processor_config")]
    for path in [*processors, *base.glob("chat_template*")]:
        shutil.copy(path, adapter)
    theirs_at = home.parent / "theirs"  # who read files beside the adapter alone
    shutil.copytree(adapter, theirs_at)
    for at in (theirs_at, adapter) if files == "its own" else (theirs_at,):
        for path in (*base.glob("*sent*.json"), base / "modules.json", *base.glob("?_*")):
            shutil.copytree(path, at / path.name) if path.is_dir() else shutil.copy(path, at)
    ours = MLLMEmbedder.from_pretrained(adapter, dtype="float32", device="cpu")
    assert ours.model.adapted and ours.dimension == 24
    _same_for_all_inputs(_theirs(theirs_at), ours, data)
    weights = (adapter if files == "its own" else base) / "2_Dense/model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(weights).items()}, weights)
    changed = MLLMEmbedder.from_pretrained(adapter, dtype="float32", device="cpu").provenance
    fact = "adapter" if files == "its own" else "weights"
    assert [key for key in changed if changed[key] != ours.provenance[key]] == [fact]


def test_a_pickled_folder_is_converted_with_its_modules(folder: Callable[..., Path], tmp_path: Path) -> None:
    home = folder(dense=1)
    expected = _ours(home).encode_query(WORDS)
    for weights in (home / "model.safetensors", home / "2_Dense/model.safetensors"):
        tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
        torch.save(tensors, weights.with_name("pytorch_model.bin"))
        weights.unlink()
    convert_weights(str(home), tmp_path / "out", show_progress=False)
    _close(_ours(tmp_path / "out").encode_query(WORDS), expected)
