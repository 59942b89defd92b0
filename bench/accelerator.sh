#!/usr/bin/env bash
# Everything that needs a GPU, in one call: kernel tests, kernel times, times of whole models.
#
#     bash bench/accelerator.sh [OUT]
#
# Prints short tables, writes JSON and reports into OUT (out/accelerator). About ten minutes on an H200;
# the models need 40 GB. PYTHON names an interpreter with torch, Triton, transformers, scipy and tqdm.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-out/accelerator}
python=${PYTHON:-python3}
export PYTHONPATH=src:.

"$python" -m pytest -q -p no:cacheprovider tests/kernels tests/selection/test_select_cuda.py ||
    echo "TESTS FAILED: the figures below are not to be trusted"
"$python" -m bench.kernels --out "$out/kernels.json"
for shape in llava-1.5-7b llava-next-7b; do
    "$python" -m sparevlm speed --shapes "$shape" --methods spare,divprune,cdpruner,visionzip,fastv \
        --batch 1,8 --text 64 --dtype bfloat16 --device cuda --out "$out/$shape"
    sed -n '/^## /,/^!/p' "$out/$shape/report.md"
done
