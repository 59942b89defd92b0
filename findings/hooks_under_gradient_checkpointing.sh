#!/usr/bin/env bash
# Hooks on decoder layers under gradient checkpointing, transformers 5.22.0 and 5.23.0 (torch 2.13.0, CPU).
#
# Expected: what a hook on a layer sees in a training step with gradient checkpointing does not depend on
# the release, so that libraries of hooks (pruning, steering, profiling) need not look at it.
# Seen: in 5.22.0 the backward pass runs the layer anew, hooks and all, so that each fires twice in a step,
# and a hook that changes its layer's input must do the same again; in 5.23.0 only the layer's forward
# is run again and each fires once, but a cache that a hook hands to the layer is taken away behind it, where
# in 5.22.0 it stays.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
python=$folder/venv/bin/python

cat > "$folder/look.py" <<'PYTHON'
import inspect

import torch
from transformers import LlamaConfig, LlamaForCausalLM


class Tap:
    """Stands for a cache: passes keys and values on, and counts."""

    def __init__(self):
        self.updates = 0

    def update(self, keys, values, *args, **kwargs):
        self.updates += 1
        return keys, values


torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                     num_attention_heads=2, vocab_size=32)).train()
model.gradient_checkpointing_enable({"use_reentrant": False})
layer, fired, tap = model.model.layers[0], [], Tap()
forward = inspect.unwrap(type(layer).forward)
name = "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def hook(module, args, kwargs):
    fired.append(1)
    return args, {**kwargs, name: tap}


layer.register_forward_pre_hook(hook, with_kwargs=True)
ids = torch.tensor([[3, 4, 5, 6]])
model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
print("hook fired", len(fired), "| keys seen through it", tap.updates)
PYTHON

status=0
check() {
    "$python" -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy "transformers==$1"
    local seen
    seen=$("$python" "$folder/look.py" 2> "$folder/err") || { cat "$folder/err"; exit 1; }
    printf 'transformers %s\n  seen:     %s\n  recorded: %s\n' "$1" "$seen" "$2"
    [ "$seen" = "$2" ] || status=1
}
check 5.22.0 "hook fired 2 | keys seen through it 2"
check 5.23.0 "hook fired 1 | keys seen through it 0"
exit $status
