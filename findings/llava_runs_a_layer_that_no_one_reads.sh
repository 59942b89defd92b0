#!/usr/bin/env bash
# Which layers of its vision encoder a LLaVA runs, and which it reads, transformers 5.24.0 (torch
# 2.13.0, CPU): LLaVA-1.5, LLaVA-NeXT, LLaVA-NeXT-Video and VipLLaVA, whose projectors take hidden
# states by index, -2 (VipLLaVA: several, the last of them -2). transformers knows the index before
# it begins, and keeps no other states.
#
# Expected: the encoder ends with the layer that is read, as in vLLM 0.32.0, which loads no other.
# Seen: the last layer runs too, and its weights may be anything: NaN in them changes no logit.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q numpy torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PY'
import sys

import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText

print(f"transformers {transformers.__version__}")
LAYERS, SIDE, PATCH = 4, 28, 14
vision = {
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": LAYERS, "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH,
}
text = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 50,
}
kinds = {"llava": -2, "llava_next": -2, "llava_next_video": -2, "vipllava": [-2, 1]}
changed = False
for kind, read in kinds.items():
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vision_config=vision, text_config=text, image_token_index=3,
        vision_feature_layer=read, image_grid_pinpoints=[[SIDE, SIDE]],
    )
    model = AutoModelForImageTextToText.from_config(config).eval()
    patches, run = (SIDE // PATCH) ** 2, []
    layers = model.model.vision_tower.encoder.layers
    for i, layer in enumerate(layers):
        layer.self_attn.register_forward_hook(lambda *_, i=i: run.append(i))
    next_ = kind.startswith("llava_next")
    rows = 2 * patches + SIDE // PATCH if next_ else patches  # NeXT: two views, and line ends
    inputs = {"input_ids": torch.tensor([[1, *[3] * rows, 5]])}
    inputs["pixel_values"] = torch.randn(1, 2, 3, SIDE, SIDE) if next_ else torch.randn(1, 3, SIDE, SIDE)
    if next_:
        inputs["image_sizes"] = torch.tensor([[SIDE, SIDE]])
    with torch.no_grad():
        before = model(**inputs).logits
        ran = sorted(set(run))
        for weights in layers[-1].parameters():
            weights.fill_(torch.nan)
        same = torch.equal(model(**inputs).logits, before)
    print(f"{kind}: {LAYERS} layers, ran {ran}; logits with NaN in the last: {'same' if same else 'others'}")
    changed |= ran != list(range(LAYERS)) or not same
if changed:
    sys.exit("this has changed")
PY
