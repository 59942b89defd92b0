#!/usr/bin/env bash
# add_adapter of transformers 5.24.0 beside peft 0.21.2, the newest release (torch 2.13.0, CPU).
#
# Expected: `model.add_adapter(LoraConfig(...))`, which the documentation shows, works with the newest
# peft, as `peft.get_peft_model` on the same model and configuration does.
# Seen: ValueError, "please use a version >= 0.22.0", which is not released. transformers 5.23.0 asks
# for an older one and goes on. Until then: get_peft_model, whose model `generate` and pruning know.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
python=$folder/venv/bin/python

cat > "$folder/look.py" <<'PYTHON'
import peft
from transformers import LlamaConfig, LlamaForCausalLM


def model():
    return LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                        num_attention_heads=2, vocab_size=32))


lora = peft.LoraConfig(target_modules=["q_proj"])
wrapped = peft.get_peft_model(model(), lora)
print("get_peft_model", type(wrapped).__name__, end=" | ")
try:
    model().add_adapter(lora)
    print("add_adapter works")
except ValueError as error:
    print("add_adapter", str(error).split("please ")[-1])
PYTHON

status=0
check() {
    "$python" -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy accelerate==1.15.0 \
        peft==0.21.2 "transformers==$1"
    local seen
    seen=$("$python" "$folder/look.py" 2> "$folder/err") || { cat "$folder/err"; exit 1; }
    printf 'transformers %s, peft 0.21.2\n  seen:     %s\n  recorded: %s\n' "$1" "$seen" "$2"
    [ "$seen" = "$2" ] || status=1
}
check 5.23.0 "get_peft_model PeftModel | add_adapter works"
check 5.24.0 "get_peft_model PeftModel | add_adapter use a version >= 0.22.0"
exit $status
