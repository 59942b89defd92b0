"""How much memory small checkpoints take: facts of their configurations; nothing is downloaded."""

from __future__ import annotations

import re
from dataclasses import dataclass

UNITS = {"": 10**9, "mb": 10**6, "gb": 10**9, "tb": 10**12, "mib": 2**20, "gib": 2**30}
WORDS = 256  # tokens of a question and its answer
LIBRARIES = 0.8e9  # bytes of Python, torch and transformers


@dataclass(frozen=True)
class Size:
    """What decides the memory of a checkpoint; `python -m bench.checkpoints` computes it.

    Attributes
    ----------
    parameters : int
        Weights, tied ones once.
    cache : int
        Values that a token has in the KV cache.
    encoder, language : (int, int)
        Width of the vision encoder's rows, and of those inside its MLPs; of the language model's.
    patches, tokens : int
        Rows that the encoder makes of a photo of 640 x 480 pixels, and those that the language
        model gets, with the sizes that the checkpoint's processor has by default.
    """

    parameters: int
    cache: int
    encoder: tuple[int, int]
    language: tuple[int, int]
    patches: int
    tokens: int

    def memory(self, width: int) -> int:
        """Bytes that an answer about one photo takes, unpruned, in values of `width` bytes.

        Weights, cache, the larger one of the encoder's and the language model's layers, and the
        libraries.
        """
        length = self.tokens + WORDS
        working = max(_layer(self.patches, *self.encoder), _layer(length, *self.language))
        return int(width * (self.parameters + self.cache * length + working) + LIBRARIES)


def _layer(rows: int, hidden: int, inner: int) -> int:
    """Values alive at once in a layer: those inside the MLP, twice, and some rows beside them."""
    return rows * (2 * inner + 4 * hidden)


_SIGLIP = (1152, 4304)
_QWEN_VIT = (1280, 5120)

SIZES = {
    "HuggingFaceTB/SmolVLM2-256M-Video-Instruct": Size(
        256_484_928, 11_520, (768, 3072), (576, 1536), 13 * 1024, 13 * 64
    ),
    "llava-hf/llava-interleave-qwen-0.5b-hf": Size(
        864_031_264, 49_152, _SIGLIP, (1024, 2816), 729, 729
    ),
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": Size(
        893_618_208, 6_144, _SIGLIP, (896, 4864), 5 * 729, 2929
    ),
    "OpenGVLab/InternVL3-1B-hf": Size(
        938_193_024, 6_144, (1024, 4096), (896, 4864), 13 * 1025, 13 * 256
    ),
    "Qwen/Qwen3-VL-2B-Instruct": Size(2_127_532_032, 57_344, (1024, 4096), (2048, 6144), 1200, 300),
    "Qwen/Qwen2-VL-2B-Instruct": Size(2_208_985_600, 14_336, _QWEN_VIT, (1536, 8960), 1564, 391),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": Size(
        2_246_784_880, 98_304, _SIGLIP, (2048, 8192), 13 * 729, 13 * 81
    ),
    "Qwen/Qwen2.5-VL-3B-Instruct": Size(
        3_754_622_976, 18_432, (1280, 3420), (2048, 11008), 1564, 391
    ),
    "llava-hf/llava-1.5-7b-hf": Size(7_063_427_072, 262_144, (1024, 4096), (4096, 11008), 577, 576),
    "Qwen/Qwen2.5-VL-7B-Instruct": Size(
        8_292_166_656, 28_672, (1280, 3420), (3584, 18944), 1564, 391
    ),
    "Qwen/Qwen3-VL-8B-Instruct": Size(
        8_767_123_696, 73_728, (1152, 4304), (4096, 12288), 1200, 300
    ),
}


def read_memory(text: str) -> int:
    """Bytes of "8GB", "512 MB" or "8" (GB).

    Raises
    ------
    ValueError
        If it is no amount.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if found is None or found[2] not in UNITS or not float(found[1]):
        raise ValueError(f"--memory {text}: give an amount of memory, such as 8GB or 512MB")
    return int(float(found[1]) * UNITS[found[2]])


def gigabytes(count: int) -> str:
    """As people read it."""
    return f"{count / 1e9:.1f} GB"
