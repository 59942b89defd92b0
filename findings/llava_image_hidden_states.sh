#!/usr/bin/env bash
# LLaVA's output field `image_hidden_states`, transformers 5.23.0 and 5.24.0 (torch 2.13.0, CPU).
#
# Expected: up to the release that the deprecation names (5.24.0 logs "will return a list ... from
# v5.30"), code that reads the field goes on: a tensor [pictures, patches, width], by attribute, by
# key, in `"image_hidden_states" in output`, and last in the tuple of return_dict=False.
# Seen: in 5.24.0 the attribute is a list already, the key raises KeyError, `in` is false, and the
# last of the tuple is a tuple. `output.image_outputs.pooler_output` is the way from 5.24.0 on.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
python=$folder/venv/bin/python

cat > "$folder/look.py" <<'PYTHON'
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
config = LlavaConfig(
    vision_config=CLIPVisionConfig(**small | {"num_hidden_layers": 2}, image_size=28, patch_size=14),
    text_config=LlamaConfig(**small, vocab_size=32),
    image_token_index=5,
)
model = LlavaForConditionalGeneration(config).eval()
prompt = {
    "input_ids": torch.tensor([[1, 5, 5, 5, 5, 2]]),
    "pixel_values": torch.zeros(1, 3, 28, 28),
}
with torch.no_grad():
    output, parts = model(**prompt), model(**prompt, return_dict=False)
try:
    by_key = type(output["image_hidden_states"]).__name__
except KeyError:
    by_key = "KeyError"
print(
    "attribute", type(output.image_hidden_states).__name__, "| key", by_key, "| in",
    "image_hidden_states" in output, "| last of the tuple", type(parts[-1]).__name__,
)
PYTHON

status=0
check() {
    "$python" -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy "transformers==$1"
    local seen
    seen=$("$python" "$folder/look.py" 2> "$folder/err") || { cat "$folder/err"; exit 1; }
    printf 'transformers %s\n  seen:     %s\n  recorded: %s\n' "$1" "$seen" "$2"
    [ "$seen" = "$2" ] || status=1
}
check 5.23.0 "attribute Tensor | key Tensor | in True | last of the tuple Tensor"
check 5.24.0 "attribute list | key KeyError | in False | last of the tuple tuple"
exit $status
