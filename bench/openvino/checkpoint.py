"""Run in the environment of OpenVINO: writes a random Qwen2-VL, and the same for OpenVINO.

    python checkpoint.py SIZES.json FOLDER

FOLDER/torch is what transformers loads, FOLDER/openvino what openvino_genai does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from optimum.exporters.openvino import main_export
from transformers import (
    Qwen2TokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
)

MARKS = "<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>".split()  # noqa: E501


def byte_letters() -> list[str]:
    """The letters that byte-level BPE writes the 256 bytes as."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in plain] + [chr(256 + n) for n in range(256 - len(plain))]


def tokenizer(folder: Path) -> Qwen2TokenizerFast:
    """Every byte is a token: words of random weights mean nothing anyway."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({letter: n for n, letter in enumerate(byte_letters())}))
    merges.write_text("#version: 0.2\n")
    made = Qwen2TokenizerFast(str(vocabulary), str(merges), pad_token=MARKS[0], eos_token=MARKS[2])
    made.add_special_tokens({"additional_special_tokens": MARKS})
    return made


def config(words: Qwen2TokenizerFast, sizes: dict[str, int]) -> Qwen2VLConfig:
    ids = dict(zip(MARKS, words.convert_tokens_to_ids(MARKS), strict=True))
    hidden, heads = sizes["hidden"], sizes["hidden"] // 64
    text = {
        "vocab_size": len(words), "hidden_size": hidden, "intermediate_size": 11 * hidden // 4,
        "num_hidden_layers": sizes["layers"], "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 4), "tie_word_embeddings": False,
        "max_position_embeddings": 8192, "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
        "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]}, "rope_theta": 1e6,
    }  # fmt: skip
    vision = {
        "depth": sizes["vision_layers"], "embed_dim": sizes["vision"], "hidden_size": hidden,
        "num_heads": sizes["vision"] // 64, "mlp_ratio": 4,
    }  # fmt: skip
    return Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"], vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"], vision_token_id=ids["<|vision_pad|>"],
        tie_word_embeddings=False,
    )  # fmt: skip


def main() -> None:
    sizes, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(0)
    words = tokenizer(folder / "torch")
    model = Qwen2VLForConditionalGeneration(config(words, sizes)).eval()
    model.save_pretrained(folder / "torch")
    words.save_pretrained(folder / "torch")
    Qwen2VLImageProcessor().save_pretrained(folder / "torch")
    main_export(
        str(folder / "torch"), folder / "openvino", task="image-text-to-text",
        ov_config=None, convert_tokenizer=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
