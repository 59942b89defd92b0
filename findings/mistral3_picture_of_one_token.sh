#!/usr/bin/env bash
# A picture of 28 x 28 pixels or less, which is one visual token of Mistral 3, transformers 5.24.0
# (torch 2.13.0, CPU).
#
# Expected: logits, as for a larger picture, or for two such pictures in one prompt.
# Seen: RuntimeError from torch.split for one such picture. The model squeezes the axis of its only
# token away before it splits tokens by picture.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q numpy pillow torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PY'
import sys

import torch
import transformers
from PIL import Image
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralImageProcessorPil,
    PixtralVisionConfig,
)

IMAGE = 10
print(f"transformers {transformers.__version__}, torch {torch.__version__}")
print("expected: logits for every prompt; seen:")
torch.manual_seed(0)
vision = PixtralVisionConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
    image_size=1540, patch_size=14,
)
text = MistralConfig(
    vocab_size=99, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16,
)
config = Mistral3Config(
    vision_config=vision, text_config=text, image_token_index=IMAGE, spatial_merge_size=2
)
model = Mistral3ForConditionalGeneration(config).eval()
scale = PixtralImageProcessorPil(
    size={"longest_edge": 1540}, patch_size={"height": 28, "width": 28}
)


def said(*sizes):
    given = scale([Image.new("RGB", size, "red") for size in sizes], return_tensors="pt")
    tokens = [int(h) // 28 * (int(w) // 28) for h, w in given["image_sizes"]]
    ids = [1] + [part for count in tokens for part in [IMAGE] * count + [2]]
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor([ids]), **given)
        word = "logits"
    except RuntimeError as error:
        word = f"RuntimeError: {error}"
    print(f"pictures {sizes}, visual tokens {tokens}: {word}")
    return word.split(" ")[0]


seen = [said((40, 20)), said((20, 20)), said((20, 20), (20, 20))]
if seen != ["logits", "RuntimeError:", "logits"]:
    sys.exit("this has changed")
PY
