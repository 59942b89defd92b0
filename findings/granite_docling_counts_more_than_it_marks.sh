#!/usr/bin/env bash
# How many tokens a picture is, by two answers of one processor, transformers 5.24.0 (torch 2.13.0,
# CPU): `_get_num_multimodal_tokens` of its size, and the ones in `mm_token_type_ids` of its prompt.
# transformers keeps the first for vLLM, whose backend for transformers models asks for both.
#
# Expected: the same number, as for Idefics3, whose prompt Granite-Docling's follows.
# Seen: Granite-Docling counts the marks around each tile and the line ends, and marks the picture's
# own tokens alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q numpy pillow torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PY'
import sys

import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GraniteDoclingImageProcessorPil,
    GraniteDoclingProcessor,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    PreTrainedTokenizerFast,
)

print(f"transformers {transformers.__version__}")
tiles = [f"<row_{row}_col_{col}>" for row in range(1, 9) for col in range(1, 9)]
special = [
    "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "\n\n", "\n",
    *tiles,
]
known = {word: i for i, word in enumerate(["<unk>", "<pad>", *special])}
words = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=words, unk_token="<unk>", pad_token="<pad>",
    extra_special_tokens={f"mark_{i}": mark for i, mark in enumerate(special)},
)
processors = {
    "Idefics3": Idefics3Processor(Idefics3ImageProcessorPil(), tokenizer, image_seq_len=64),
    "Granite-Docling": GraniteDoclingProcessor(GraniteDoclingImageProcessorPil(), tokenizer),
}
print("expected: counted == marked; seen:")
apart = {}
for name, processor in processors.items():
    for height, width in ((100, 100), (500, 1000)):
        given = processor(
            text=["<image>"], images=[[Image.new("RGB", (width, height))]],
            return_mm_token_type_ids=True,
        )
        marked = sum(given["mm_token_type_ids"][0])
        counted = processor._get_num_multimodal_tokens([(height, width)])["num_image_tokens"][0]
        own = given["input_ids"][0].count(known["<image>"])
        print(f"{name}, {height} x {width}: counted {counted}, marked {marked}, <image> {own}")
        apart.setdefault(name, []).append(counted - marked)
if apart["Idefics3"] != [0, 0] or min(apart["Granite-Docling"]) <= 0:
    sys.exit("this has changed")
PY
