"""What was passed beside a prompt, looked at before anything is encoded.

docs/what_you_can_pass.md has a row for each argument.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparevlm.hf.gather import spanned
from sparevlm.hf.pruning import Pruning
from sparevlm.hf.reading import Prompt, generation_setting

# What `shorten` and the encoders take care of.
_KNOWN = {
    "input_ids", "attention_mask", "position_ids", "labels", "shift_labels", "token_type_ids",
    "mm_token_type_ids", "logits_to_keep", "assistant_model", "streamer",
}  # fmt: skip
_OF_ENCODERS = (
    "pixel", "image", "video", "vision", "spatial_shapes", "second_per_grid", "num_frames",
    "batch_num_images", "input_features",
)  # fmt: skip
_PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")
_ONE_ROW = "samples packed into one row cannot be pruned: give each a row of its own, padded"


def check_passed(pruning: Pruning, prompt: Prompt, kwargs: dict[str, Any]) -> None:
    """Refuse what would mean something else once the prompt is shorter.

    Raises
    ------
    ValueError
        Naming the argument, and what to do.
    """
    for name in _PACKED:
        if name in kwargs:
            raise ValueError(f"{name} was given: {_ONE_ROW}")
    text = pruning.model.config.get_text_config()
    routers = kwargs.get("output_router_logits", getattr(text, "output_router_logits", False))
    if pruning.inside and routers:
        raise ValueError(
            "output_router_logits was asked for, and behind layers that drop tokens routers see "
            "different numbers of them: switch it off, or use a method that prunes before the "
            "decoder"
        )
    wanted = kwargs.get("logits_to_keep", 0)
    if not isinstance(wanted, int) and not (isinstance(wanted, Tensor) and wanted.ndim == 1):
        raise ValueError(
            f"logits_to_keep={wanted!r} is neither a whole number nor a tensor [n] of columns: "
            "give one of these"
        )
    rows, length = prompt.ids.shape
    mask = prompt.mask
    if mask is not None and (len(mask) != rows or mask.shape[1] < length):
        raise ValueError(_shape("attention_mask", mask, rows, length))
    if mask is not None and prompt.prefix is None and mask.shape[1] != length:
        raise ValueError(_shape("attention_mask", mask, rows, length))
    if mask is not None and _hides_an_end(mask[:, mask.shape[1] - length :], prompt):
        raise ValueError(
            "attention_mask hides a picture at the beginning or the end of a row, where padding is "
            "taken off: leave the picture and its placeholders out"
        )
    for name in ("labels", "shift_labels"):
        if name in kwargs and list(kwargs[name].shape) != [rows, length]:
            raise ValueError(_shape(name, kwargs[name], rows, length))
    for name in ("token_type_ids", "mm_token_type_ids"):
        types = kwargs.get(name)
        if types is not None and (types.ndim != 2 or types.shape[1] < length):
            raise ValueError(_shape(name, types, rows, length))
    if kwargs.get("position_ids") is not None:
        _check_positions(kwargs["position_ids"], prompt, several=pruning.family.mrope)
    for name, value in kwargs.items():
        if name in _KNOWN or name.startswith(_OF_ENCODERS) or not isinstance(value, Tensor):
            continue
        if _along(value, rows, length):
            raise ValueError(
                f"{name} has an entry for each of the prompt's {length} tokens, and what it means "
                "once tokens are dropped is not known: leave it out, or prune with prune_inputs "
                "and pass what fits its input_ids"
            )


def check_generate(model: Any, kwargs: dict[str, Any]) -> None:
    """Refuse what `generate` would do with the words of a shorter prompt.

    Raises
    ------
    ValueError
        Naming the argument, and what to do.
    """
    if kwargs.get("custom_generate") is not None:
        raise ValueError(
            "custom_generate would see the pruned prompt alone: prune with prune_inputs and pass "
            "what it gives to generate on a model without pruning attached"
        )
    if generation_setting(model, kwargs, "token_healing"):
        raise ValueError(
            "token_healing writes the prompt anew from its text, which a pruned one has no more: "
            "leave it out"
        )


def _shape(name: str, value: Tensor, rows: int, length: int) -> str:
    return (
        f"{name} has the shape {list(value.shape)} and input_ids [{rows}, {length}]: pass one "
        "entry for each of their tokens, as the processor does"
    )


def _check_positions(positions: Tensor, prompt: Prompt, *, several: bool) -> None:
    """`several`: the model places tokens by time, row and column."""
    rows, length = prompt.ids.shape
    shape = list(positions.shape)
    fits = len(shape) == 2 or (several and shape[:-2] in ([3], [4]))
    if not fits or shape[-1] < length or shape[-2] not in (1, rows):
        wanted = f"[3, {rows}, {length}]" if several else f"[{rows}, {length}]"
        raise ValueError(
            f"position_ids has the shape {shape} and input_ids [{rows}, {length}]: pass {wanted}, "
            "or leave it out"
        )
    if prompt.mask is not None or prompt.prefix is not None or shape[:-2] == [3]:
        return
    text = positions if len(shape) == 2 else positions[0]  # Qwen: in front of the axes
    if bool((torch.diff(text.cpu(), dim=-1) != 1).any()):
        raise ValueError(
            "position_ids do not count up by one and there is no attention_mask, which "
            f"transformers reads as packed samples: {_ONE_ROW}, or "
            "give an attention_mask if this is one sample"
        )


def _hides_an_end(mask: Tensor, prompt: Prompt) -> bool:
    """Whether placeholders that are not cached lie in front of, or behind, all that is seen."""
    new = torch.arange(mask.shape[1]) >= prompt.start
    return bool((~spanned(mask) & new & (prompt.types != 0)).any())


def _along(value: Tensor, rows: int, length: int) -> bool:
    """Whether a tensor has an axis for the prompt."""
    shape = list(value.shape)
    if len(shape) < 2:
        return shape == [length]
    return (shape[0] in (1, rows) and shape[1] == length) or (
        len(shape) > 2 and length in shape[-2:]
    )
