#!/usr/bin/env bash
# Qwen2-VL and Qwen2.5-VL called without mm_token_type_ids, transformers 5.24.0 (torch 2.13.0, CPU).
#
# Expected: the two, which place tokens alike, treat a call without that argument alike: both work it out
# from the placeholders, or both raise.
# Seen: Qwen2-VL (with Qwen3-VL, Qwen3.5 and the GLMs) raises ValueError and names the argument; Qwen2.5-VL
# goes on, places the picture as text, and gives other logits without a word. Code that builds its own
# inputs, as from ids and grids alone, compares two different schemes of positions there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
python=$folder/venv/bin/python

cat > "$folder/look.py" <<'PYTHON'
import torch
import transformers as t

text = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0,
                             "mrope_section": [2, 3, 3]})
ids = dict(image_token_id=50, video_token_id=51, vision_start_token_id=52, vision_end_token_id=53)
towers = {
    "Qwen2VL": dict(depth=1, embed_dim=32, hidden_size=32, num_heads=2, mlp_ratio=1, patch_size=4,
                    spatial_merge_size=2, temporal_patch_size=2),
    "Qwen2_5_VL": dict(depth=1, hidden_size=32, out_hidden_size=32, intermediate_size=32,
                       num_heads=2, patch_size=4, spatial_merge_size=2, temporal_patch_size=2,
                       window_size=16, fullatt_block_indexes=[0]),
}
prompt = [4, 52, *[50] * 8, 53, 5, 6, 7]
inputs = {
    "input_ids": torch.tensor([prompt]),
    "pixel_values": torch.randn(32, 3 * 2 * 16, generator=torch.Generator().manual_seed(0)),
    "image_grid_thw": torch.tensor([[1, 4, 8]]),
}
types = (inputs["input_ids"] == 50).int()
for name, tower in towers.items():
    torch.manual_seed(0)
    config = getattr(t, f"{name}Config")(text_config=text, vision_config=tower, **ids)
    model = getattr(t, f"{name}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(20)
        told = model(**inputs, mm_token_type_ids=types).logits
        try:
            same = torch.allclose(model(**inputs).logits, told)
            print(name, "same logits" if same else "other logits", end="; ")
        except ValueError as error:
            print(name, "ValueError", "mm_token_type_ids" in str(error), end="; ")
print()
PYTHON

"$python" -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy transformers==5.24.0
seen=$("$python" "$folder/look.py" 2> "$folder/err") || { cat "$folder/err"; exit 1; }
recorded="Qwen2VL ValueError True; Qwen2_5_VL other logits; "
printf 'transformers 5.24.0\n  seen:     %s\n  recorded: %s\n' "$seen" "$recorded"
[ "$seen" = "$recorded" ]
