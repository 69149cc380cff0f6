"""Save the embedded base's files for sentence-transformers, and the adapters on it, as this version writes them.

    python scripts/toy/save_again.py

Weights stay as they are, to the byte. To be run in the root of a clone where what is saved beside weights has changed.
"""

from __future__ import annotations

from pathlib import Path

from mllm_embed import MLLMEmbedder
from mllm_embed.data.trained_on import TRAINED_ON
from mllm_embed.errors import ModelError, user_errors
from mllm_embed.files import write_file
from mllm_embed.inputs.prompts import PROMPT_SETS
from mllm_embed.saving.checkpoint import adapter_fingerprint, model_fingerprint
from mllm_embed.saving.sentence_transformers_files import write_base_files

ASSETS = Path("scripts/assets")  # relative, since the adapters name their base so


@user_errors
def main() -> int:
    """Write the files, and make sure that weights are what they were."""
    base = ASSETS / "base"
    if not base.is_dir():
        raise ModelError(f"{base} is not here; go to the root of a clone")
    before = model_fingerprint(base)
    write_base_files(base, PROMPT_SETS["instructcir"])
    for adapter in sorted((ASSETS / "adapters").iterdir()):
        weights = adapter_fingerprint(adapter)
        trained_on = (adapter / TRAINED_ON).read_bytes()  # which a training run alone writes
        embedder = MLLMEmbedder.from_pretrained(base, adapter=adapter, dtype="float32", device="cpu")
        embedder.save_pretrained(adapter, card={"license": "apache-2.0"})
        write_file(adapter / TRAINED_ON, trained_on)
        if weights != adapter_fingerprint(adapter):
            raise ModelError(f"the weights of {adapter} have changed; bring them back: git checkout {adapter}")
        print(f"saved {adapter}")
    if before != model_fingerprint(base):
        raise ModelError(f"{base} has changed; bring it back: git checkout {base}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
