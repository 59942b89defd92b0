"""The same model in transformers, with and without sparevlm's CDPruner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

from bench.clock import milliseconds
from sparevlm.methods import get_method

MARK = "<|image_pad|>"


class Ours:
    """Asks for first tokens as `peer.py` does, in this process."""

    def __init__(self, folder: Path, dtype: torch.dtype, question: str) -> None:
        self.model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.images = Qwen2VLImageProcessorPil.from_pretrained(folder)
        self.question = question

    def ask(self, prompt: str, picture: np.ndarray, keep: int | None) -> dict[str, Any]:
        """`ms` from picture and words to the first token, `pruning` of it to prune."""
        said: list[str] = []
        with self._pruned(keep) as handle:
            spent = milliseconds(lambda: said.append(self._first(prompt, picture)))
            done = handle.report[0] if handle is not None else None
        return {
            "ms": spent, "text": said[0], "kept": done.after if done else None,
            "pruning": done.milliseconds if done else None,
        }  # fmt: skip

    @contextmanager
    def _pruned(self, keep: int | None) -> Iterator[Any]:
        if keep is None:
            with nullcontext() as nothing:
                yield nothing
            return
        method = get_method("cdpruner", keep)
        how = {"relevance": "llm", "tokenizer": self.tokenizer, "question": self.question}
        with method.attach(self.model, **how) as handle:
            yield handle

    @torch.inference_mode()
    def _first(self, prompt: str, picture: np.ndarray) -> str:
        seen = self.images(images=[Image.fromarray(picture)], return_tensors="pt")
        count = int(seen["image_grid_thw"].prod()) // self.images.merge_size**2
        inputs = self.tokenizer(prompt.replace(MARK, MARK * count), return_tensors="pt")
        ids = inputs["input_ids"]
        kinds = (ids == self.model.config.image_token_id).to(ids.dtype)
        pixels = seen["pixel_values"].to(self.model.dtype)
        out = self.model.generate(
            **inputs, pixel_values=pixels, image_grid_thw=seen["image_grid_thw"],
            mm_token_type_ids=kinds, max_new_tokens=1, do_sample=False,
        )  # fmt: skip
        return self.tokenizer.decode(out[0, ids.shape[1] :])
