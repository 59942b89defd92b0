#!/usr/bin/env bash
# The limit of pixels for a whole video, size["longest_edge"], in the video processors of GLM-4V,
# Qwen3-VL and Qwen3.5, transformers 5.24.0 (torch 2.13.0, CPU).
#
# Expected: a video never has more visual tokens than fit into the limit.
# Seen: five frames have half as many again, where four or six keep to it. The last of an odd number
# is repeated to make a pair, but the resize does not count the repetition: it asks whether
# round(frames / 2) * 2 frames fit, which for five is four.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q numpy pillow torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PY'
import sys

import torch
import transformers
from transformers.models.glm4v.video_processing_glm4v import Glm4vVideoProcessor  # no torchvision

HEIGHT, WIDTH, PATCH, MERGE = 280, 560, 14, 2
LIMIT = 4 * HEIGHT * WIDTH  # of pixels: four frames as they are, and no more

print(f"transformers {transformers.__version__}, torch {torch.__version__}")
processor = Glm4vVideoProcessor(size={"shortest_edge": 28 * 28, "longest_edge": LIMIT})
most = LIMIT // (2 * (PATCH * MERGE) ** 2)  # two frames make one step
print(f"expected: at most {most} visual tokens, whatever the number of frames")
seen = {}
for frames in range(2, 11):
    patches = processor.get_num_of_video_patches(frames, HEIGHT, WIDTH)
    seen[frames] = patches // MERGE**2
    print(f"seen: {frames:2d} frames  {seen[frames]:4d} tokens  {seen[frames] / most:4.0%} of the limit")
STILL = {5: 600, 6: 384, 7: 420}
changed = {n: seen[n] for n, was in STILL.items() if seen[n] != was}
if changed:
    sys.exit(f"this has changed: {changed} instead of {STILL}")
PY
