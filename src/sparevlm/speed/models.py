"""Models to be timed, and calls for them: random weights, random pictures, random words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparevlm import hf
from sparevlm.guide import Guide
from sparevlm.hf.encode import encode
from sparevlm.hf.media import IMAGE, placeholder_ids
from sparevlm.hf.pruning import Pruning
from sparevlm.hf.supported import find_family
from sparevlm.methods import RandomTokens
from sparevlm.relevance import load_clip, tower_name
from sparevlm.speed.shapes import SHAPES


@dataclass(eq=False)
class Subject:
    """A model and what a call needs.

    Attributes
    ----------
    name : str
    model
        On its device, in evaluation mode.
    images
        The family's own image processor.
    size : (int, int)
        Height and width of the pictures.
    options : dict
        What compares pictures with words, for `sparevlm.hf.attach`, loaded already: random weights
        have no text tower beside them, so that the language model's embeddings serve.
    """

    name: str
    model: Any
    images: Any
    size: tuple[int, int]
    options: dict[str, Any]

    def inputs(self, batch: int, words: int) -> dict[str, Tensor]:
        """A call with one picture and `words` words a row, all of one length."""
        device = self.model.device
        rng = np.random.default_rng(0)
        pictures = [
            Image.fromarray(rng.integers(0, 256, (*self.size, 3), dtype=np.uint8))
            for _ in range(batch)
        ]
        inputs = dict(self.images(images=pictures, return_tensors="pt"))
        inputs = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        for name, value in inputs.items():
            kind = self.model.dtype if value.is_floating_point() else None
            inputs[name] = value.to(device=device, dtype=kind)
        tokens = self._tokens(inputs) // batch
        family = find_family(self.model)
        marks = placeholder_ids(family, self.model)
        vocabulary = self.model.config.get_text_config().vocab_size
        plain = np.setdiff1d(np.arange(10, vocabulary), [*marks, *self._specials()])
        text = torch.from_numpy(rng.choice(plain, (batch, words)))
        picture = torch.full((batch, tokens), marks[0])
        # The picture after the first words, as chat templates have it.
        begin = min(words, 4)
        ids = torch.cat((text[:, :begin], picture, text[:, begin:]), dim=1).to(device)
        inputs["input_ids"], inputs["attention_mask"] = ids, torch.ones_like(ids)
        if family.mrope:
            inputs["mm_token_type_ids"] = (ids == marks[0]).to(ids.dtype)
        return inputs

    def _tokens(self, inputs: dict[str, Tensor]) -> int:
        with torch.no_grad():
            pruning = Pruning.of(RandomTokens(keep=1.0), self.model, Guide())
            return encode(pruning, IMAGE, inputs, hidden=False).count

    def _specials(self) -> list[int]:
        """Ids that the model reads as something else than a word."""
        ids = [
            value
            for config in (self.model.config, self.model.config.get_text_config())
            for name, value in config.to_dict().items()
            if name.endswith(("token_id", "token_index"))
        ]
        return [value for value in ids if isinstance(value, int)]


def subject(
    name: str,
    *,
    dtype: torch.dtype,
    device: str,
    attention: str = "sdpa",
    layers: int | None = None,
) -> Subject:
    """Build a model.

    Parameters
    ----------
    name : str
        "pocket" (its own weights), a name of `SHAPES`, or a directory with a config.json (and a
        preprocessor_config.json, if its pictures are not those of the family's default).
    dtype, device, attention
        What to run in, where, and with which attention implementation.
    layers : int, optional
        Shorten the language model to so many layers, for a machine that cannot hold all.

    Raises
    ------
    ValueError
        If there is no such shape, or its family is not supported.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText

    if name == "pocket":
        model, processor = hf.load("pocket", dtype=dtype, device=device)
        model.set_attn_implementation(attention)
        side = processor.image_processor.crop_size["height"]
        clip = load_clip(str(tower_name(model)), model, download=False)
        options = {"clip": clip, "tokenizer": processor.tokenizer}
        return Subject(name, model, processor.image_processor, (side, side), options)
    if name in SHAPES:
        facts, size = SHAPES[name]
        config = AutoConfig.for_model(**facts)
        images = _image_processor(config)
    else:
        config, images, size = _from_folder(Path(name).expanduser(), AutoConfig, AutoImageProcessor)
    if layers is not None:
        text = config.get_text_config()
        text.num_hidden_layers = min(layers, text.num_hidden_layers)
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    try:
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(
                config, dtype=dtype, attn_implementation=attention
            )
    finally:
        torch.random.set_rng_state(generator)
    find_family(model)
    return Subject(name, model.eval(), images, size, {"relevance": "llm"})


def check_shape(name: str) -> None:
    """Raise ValueError unless `subject` knows such a shape."""
    known = ["pocket", *SHAPES]
    if name not in known and not (Path(name) / "config.json").is_file():
        raise ValueError(
            f"no shape {name}: give {', '.join(known)}, or a directory with a config.json"
        )


def _from_folder(folder: Path, configs: Any, processors: Any) -> tuple[Any, Any, tuple[int, int]]:
    check_shape(str(folder))
    config = configs.from_pretrained(folder)
    side = getattr(config.vision_config, "image_size", 336)
    size = (side, side) if isinstance(side, int) else tuple(side)
    if (folder / "preprocessor_config.json").is_file():
        return config, processors.from_pretrained(folder), size
    return config, _image_processor(config), size


def _image_processor(config: Any) -> Any:
    """The image processor of a family, from the model's configuration alone."""
    from transformers import (
        CLIPImageProcessorPil,
        LlavaNextImageProcessorPil,
        Qwen2VLImageProcessorPil,
    )

    vision = config.vision_config
    if config.model_type in ("llava", "llava_next"):
        side = vision.image_size
        sizes = {
            "size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side},
        }  # fmt: skip
        if config.model_type == "llava":
            return CLIPImageProcessorPil(**sizes)
        return LlavaNextImageProcessorPil(**sizes, image_grid_pinpoints=config.image_grid_pinpoints)
    if config.model_type in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        return Qwen2VLImageProcessorPil(
            patch_size=vision.patch_size, merge_size=vision.spatial_merge_size
        )
    raise ValueError(
        f"no image processor is known for {config.model_type}: "
        "put its preprocessor_config.json beside config.json"
    )
