#!/usr/bin/env bash
# The whole job on scenes of sprites, in five to eight minutes on two cores: make data, train two stages, evaluate, search.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
.venv/bin/python scripts/demo.py
MODEL="--model scripts/assets/base --adapter scripts/assets/adapters/instructions"
.venv/bin/mllm-embed search $MODEL \
    --gallery runs/demo/data/unseen --output runs/demo/search.png --exclude-reference \
    --image runs/demo/data/unseen/images/000/000-00.jpg --instruction "on snow instead"
.venv/bin/mllm-embed encode runs/demo/data/unseen --output runs/demo/unseen --keep background things count $MODEL
cat <<END

look at runs/demo/contact_sheet.png, runs/demo/search.png and runs/demo/report.png
search these pictures on a page, at http://127.0.0.1:8000, with
  .venv/bin/mllm-embed serve runs/demo/unseen $MODEL
END
