"""Running a model's own vision encoder, once."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(eq=False)
class Encoded:
    """What the encoder gave for one modality.

    Attributes
    ----------
    output
        The model output that `get_image_features` returned.
    features : list of Tensor [N_i, D]
        One entry an image.
    hidden : list of Tensor [N_i, C] or None
        Encoder states of the same patches at the layer that the projector reads.
    used : set of str
        Arguments that the encoder took.
    """

    output: Any
    features: list[Tensor]
    hidden: list[Tensor] | None
    used: set[str]

    def with_features(self, features: list[Tensor]) -> Any:
        """A copy of the output that carries other features."""
        output = copy.copy(self.output)
        output.pooler_output = features
        return output


def encode_images(model: Any, kwargs: dict[str, Any], *, hidden: bool) -> Encoded:
    """Encode the pictures of a call with the arguments that the call gave.

    `hidden` asks for the encoder's states beside the features.
    """
    encoder = model.base_model.get_image_features
    names = set(inspect.signature(encoder).parameters) - {"kwargs"}
    arguments = {n: kwargs[n] for n in names if kwargs.get(n) is not None}
    arguments["pixel_values"] = arguments["pixel_values"].to(
        _device(model)
    )  # as generate does with inputs left on the CPU
    output = encoder(**arguments, return_dict=True)
    features = list(output.pooler_output)
    states = _patch_states(model, kwargs, output, features) if hidden else None
    return Encoded(output, features, states, names)


def _device(model: Any) -> torch.device:
    return next(model.base_model.vision_tower.parameters()).device


def _patch_states(
    model: Any, kwargs: dict[str, Any], output: Any, features: list[Tensor]
) -> list[Tensor] | None:
    layer = kwargs.get("vision_feature_layer")
    layer = model.config.vision_feature_layer if layer is None else layer
    if not isinstance(layer, int):
        layer = list(layer)[-1]
    states = output.hidden_states[layer]
    if len(states) != len(features):
        return None
    found = []
    for state, rows in zip(states, features, strict=True):
        extra = len(state) - len(rows)  # the class token, where it is no visual token
        if extra not in (0, 1):
            return None
        found.append(state[extra:])
    return found
