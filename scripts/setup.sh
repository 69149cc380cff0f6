# Sourced by the commands beside it: a virtual environment in .venv with the library and its tests installed, made
# once and again only when pyproject.toml changes. PYTHON chooses the interpreter (3.10 or newer).
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export DS_BUILD_OPS=0 OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
stamp=".venv/installed-$(cksum < pyproject.toml | tr ' ' '-')"
if [ ! -f "$stamp" ]; then
    echo "installing into .venv (about 2 GB; a few minutes, once)"
    [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
    # a newer torch may come with gigabytes of CUDA packages; the library itself takes any from 2.6
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[test]" "torch<2.14"
    touch "$stamp"
fi
