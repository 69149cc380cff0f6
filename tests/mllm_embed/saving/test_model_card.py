"""README.md of saved folders: what it says, what it keeps, and what it never makes up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from mllm_embed import MLLMEmbedder, PromptSet
from mllm_embed.cli import main
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.model.lora import LoraSpec, add_lora

TRAINING = {"captions": {"data": "shoes, 40 pairs", "batch size": 8}, "instructions": {"data": "shoes, 80 triplets"}}


@pytest.fixture
def adapted(embedder: MLLMEmbedder) -> MLLMEmbedder:
    add_lora(embedder.model, LoraSpec(rank=4), embedder.family)
    return embedder


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return _result(tmp_path / "result", 12.5)


def _result(folder: Path, percent: float, title: str = "CIRR test1") -> Path:
    figures = {"R@1": {"percent": percent}, "mAP": {"percent": 20.04}, "soft R@1": {"percent": 99.0}}
    rows = {"composed": figures, "image only": {"R@1": {"percent": 3.0}, "mAP": {"percent": 4.0}}}
    about = {"name": "cirr", "title": title, "fingerprint": "0123456789abcdef", "printed": ["R@1", "mAP"]}
    values = {
        "dtype": "float32",
        "benchmark": about,
        "tasks": {"": {"queries": 4148, "gallery": 2315, "rows": rows}},
        "means": {"composed": {"mean": {"percent": 16.27}}},
    }
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(values))
    return folder


def _card(folder: Path) -> ModelCard:
    return ModelCard((folder / "README.md").read_text())


def _figures(card: ModelCard) -> dict[tuple[str, str], Any]:
    return {(e.dataset_name, e.metric_type): e.metric_value for e in card.data.eval_results or []}


def test_a_plain_save_says_what_the_files_say(adapted: MLLMEmbedder, tmp_path: Path) -> None:
    adapted.save_pretrained(tmp_path / "out")
    card = _card(tmp_path / "out")
    assert card.data.library_name == "sentence-transformers" and card.data.license == "unknown"
    assert {"lora", "composed-image-retrieval"} <= set(card.data.tags)
    assert "dimension: 64" in card.text and "rank 4" in card.text and "last token" in card.text
    assert 'Modify this image with "{instruction}", describe' in card.text
    assert "Unknown: that of the base model applies." in card.text
    assert "## Training" not in card.text and "## Results" not in card.text
    adapted.save_pretrained(tmp_path / "whole", merge=True)
    whole = _card(tmp_path / "whole")
    assert "lora" not in whole.data.tags and "PeftModel" not in whole.text and "AutoProcessor" in whole.text


def test_its_code_runs(adapted: MLLMEmbedder, tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    for merge in (False, True):
        adapted.save_pretrained(tmp_path / "out", merge=merge)
        code = "\n".join(re.findall(r"```python\n(.*?)```", _card(tmp_path / "out").text, re.DOTALL))
        names = {"MODEL": tmp_path / "out", "tiny": tiny_llava, "shoe.jpg": data / "images/0.png"}
        for name, path in (names | {"a.jpg": data / "images/1.png"}).items():
            code = code.replace(f'"{name}"', repr(str(path)))
        found: dict[str, Any] = {}
        exec(code, found)
        assert found["backbone"].config.model_type == "llava" and found["gallery"].shape == (2, 64)


def test_no_path_of_the_machine(tiny_llava: Path, adapted: MLLMEmbedder, result: Path, tmp_path: Path) -> None:
    adapted.save_pretrained(tmp_path / "out", card={"results": [result], "training": TRAINING})
    assert "/" in adapted.settings.base and str(tiny_llava.parent) not in (tmp_path / "out/README.md").read_text()


def test_training_and_results_are_told(adapted: MLLMEmbedder, result: Path, tmp_path: Path) -> None:
    card = {"training": TRAINING, "made_with": {"seed": 3}, "results": [result], "license": "mit", "datasets": ["a/b"]}
    adapted.save_pretrained(tmp_path / "out", card=card)
    card = _card(tmp_path / "out")
    assert card.data.license == "mit" and card.data.datasets == ["a/b"]
    assert "| stage | captions | instructions |" in card.text and "| batch size | 8 |  |" in card.text
    assert "- seed: 3" in card.text
    assert _figures(card) == {("CIRR test1", "R@1"): 12.5, ("CIRR test1", "mAP"): 20.04, ("CIRR test1", "mean"): 16.27}
    assert "| composed: 4,148 queries, gallery of 2,315 | R@1 | mAP |" in card.text
    assert "| image only | 3.00 | 4.00 |" in card.text and "99" not in card.text


def test_saved_again_it_keeps_its_facts(adapted: MLLMEmbedder, result: Path, tmp_path: Path) -> None:
    adapted.save_pretrained(
        tmp_path / "a", card={"training": TRAINING, "results": [result], "license": "mit", "datasets": ["a/b"]}
    )
    readme = tmp_path / "a/README.md"
    own = readme.read_text().replace("pipeline_tag", "language: en\npipeline_tag") + "\n## Thanks\n\nTo my cat.\n"
    readme.write_text(own.replace("# Composed image retrieval with tiny", "# Shoes\n\nMy very own words."))
    again = MLLMEmbedder.from_pretrained(tmp_path / "a")
    mine = PromptSet("mine", image="What?", composed="Now {instruction}", text="Word: {text}")
    again.with_prompts(mine).save_pretrained(tmp_path / "b")
    card = _card(tmp_path / "b")
    assert (card.data.license, card.data.language, card.data.datasets) == ("mit", "en", ["a/b"])
    assert _figures(card) == _figures(_card(tmp_path / "a")) != {}
    for words in ("# Shoes", "My very own words.", "To my cat.", "shoes, 40 pairs", "| image only | 3.00", "`mit`"):
        assert card.text.count(words) == 1, words
    assert "Now {instruction}" in card.text and "Modify this image" not in card.text
    again.save_pretrained(tmp_path / "c", merge=True)
    card = _card(tmp_path / "c")
    assert "lora" not in card.data.tags and "An embedding model" in card.text and "To my cat." in card.text
    assert _figures(card)


def test_new_weights_do_not_inherit_results(adapted: MLLMEmbedder, result: Path, tmp_path: Path) -> None:
    adapted.save_pretrained(tmp_path / "a", merge=True, card={"training": TRAINING, "results": [result]})
    tuned = MLLMEmbedder.from_pretrained(tmp_path / "a")
    add_lora(tuned.model, LoraSpec(rank=4), tuned.family)
    tuned.save_pretrained(tmp_path / "b")
    assert not _figures(_card(tmp_path / "b")) and "shoes" not in _card(tmp_path / "b").text
    same = MLLMEmbedder.from_pretrained(tmp_path / "a")
    same.save_pretrained(tmp_path / "c", card={"training": {"third": {"data": "hats"}}})
    card = _card(tmp_path / "c").text
    assert not _figures(_card(tmp_path / "c")) and "## Results" not in card and "hats" in card and "shoes" not in card


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("license: apache-2.0", "`apache-2.0`, that of its base model base."),
        (
            "license: other\nlicense_name: llava\nlicense_link: LICENSE",
            "`llava` (LICENSE), that of its base model base.",
        ),
        ("license: [broken", "Unknown"),
        ("tags: [x]", "Unknown"),
    ],
)
def test_the_licence_is_the_base_models(embedder: MLLMEmbedder, tmp_path: Path, header: str, expected: str) -> None:
    embedder.save_pretrained(tmp_path / "base")
    (tmp_path / "base/README.md").write_text(f"---\n{header}\n---\n# Base\n")
    (tmp_path / "base/mllm_embed.json").unlink()  # a base as it was fetched
    for name in ("sentence_bert_config.json", "modules.json", "config_sentence_transformers.json"):
        (tmp_path / "base" / name).unlink()
    tuned = MLLMEmbedder.from_pretrained(tmp_path / "base")
    add_lora(tuned.model, LoraSpec(rank=4), tuned.family)
    tuned.save_pretrained(tmp_path / "out")
    assert expected in _card(tmp_path / "out").text
    assert _card(tmp_path / "out").data.license == (re.findall(r"license: ([a-z].*)", header) or ["unknown"])[0]


def test_mistakes_get_a_sentence(adapted: MLLMEmbedder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'licence' is not known; a card takes license, datasets"):
        adapted.save_pretrained(tmp_path / "out", card={"licence": "mit"})
    (tmp_path / "result.json").write_text('{"tasks": {}}')
    with pytest.raises(DataError, match=r"result\.json is no result of this version \(benchmark: Field required"):
        adapted.save_pretrained(tmp_path / "out", card={"results": [tmp_path]})
    with pytest.raises(DataError, match="nowhere is missing"):
        adapted.save_pretrained(tmp_path / "out", card={"results": [tmp_path / "nowhere"]})
    assert not (tmp_path / "out").exists()


def test_the_command_rewrites_the_card(
    adapted: MLLMEmbedder, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapted.save_pretrained(tmp_path / "out", card={"training": TRAINING})
    folder = str(tmp_path / "out")
    assert main(["card", folder, "--result", str(result), "--license", "mit", "--dataset", "a/b"]) == 0
    other = _result(tmp_path / "other", 50, "CIRCO")
    assert main(["card", folder, "--result", str(other), str(_result(tmp_path / "newer", 13))]) == 0
    card = _card(tmp_path / "out")
    assert card.data.license == "mit" and "shoes, 40 pairs" in card.text
    assert "| composed | 13.00 | 20.04 |" in card.text and "| composed | 50.00 | 20.04 |" in card.text
    assert "12.50" not in card.text and card.text.count("### ") == 2
    capsys.readouterr()
    (tmp_path / "out/README.md").write_text("---\nlicense: [\n---\n")
    assert main(["card", folder]) == 2
    assert re.match(r"error: the header of .*out/README.md is broken .*mend or remove it\n$", capsys.readouterr().err)
    assert main(["card", str(tmp_path)]) == 2
    assert "is no saved model" in capsys.readouterr().err
