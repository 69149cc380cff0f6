#!/usr/bin/env bash
# The whole job on scenes of sprites, in five to eight minutes on two cores: make data, train two stages, evaluate, search.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
.venv/bin/python scripts/demo.py
.venv/bin/mllm-embed search --model scripts/assets/base --adapter scripts/assets/adapters/instructions \
    --gallery runs/demo/data/unseen --output runs/demo/search.png --exclude-reference \
    --image runs/demo/data/unseen/images/000/000-00.jpg --instruction "on snow instead"
echo "look at runs/demo/contact_sheet.png, runs/demo/search.png and runs/demo/report.png"
