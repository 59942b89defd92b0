#!/usr/bin/env bash
# Positions of what follows a video in Qwen2-VL and Qwen2.5-VL, transformers 5.24.0 (torch 2.13.0, CPU).
#
# Expected: words after a video stand after all of it, as they do after a picture, and as vLLM 0.32.0
# (the largest position so far, plus one) places them.
# Seen: they stand as many positions after its begin as a frame has rows or columns, however long it
# is. After 16 steps of 4 x 4 tokens the first word has the position of the video's fifth step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q numpy pillow torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PY'
import sys

import torch
import transformers
from transformers import Qwen2VLConfig, Qwen2VLModel

STEPS, SIDE, WORDS = 16, 4, 3

print(f"transformers {transformers.__version__}, torch {torch.__version__}")
small = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32}
rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
more = {"num_key_value_heads": 1, "intermediate_size": 64, "rope_parameters": rope}
vision = {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 14}
config = Qwen2VLConfig(text_config=small | more, vision_config=vision)
model = Qwen2VLModel(config)
length = STEPS * SIDE**2
kinds = torch.tensor([[0] * WORDS + [2] * length + [0] * WORDS])  # words, a video, words
ids = torch.full_like(kinds, 5)
grid = torch.tensor([[STEPS, 2 * SIDE, 2 * SIDE]])  # of patches; 2 x 2 make a token
positions, _ = model.get_rope_index(ids, kinds, video_grid_thw=grid)
video, after = positions[:, 0, WORDS : WORDS + length], positions[:, 0, WORDS + length]
print(f"expected: words after the video from {int(video.max()) + 1} on")
print(f"seen: the video has positions up to {int(video.max())}, the next word {after.tolist()}")
if int(video.max()) != WORDS + STEPS - 1 or after.tolist() != [WORDS + SIDE] * 3:
    sys.exit("this has changed")
PY
