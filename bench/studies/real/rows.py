"""Kinds of features that are looked at side by side, one matrix a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparevlm import load
from sparevlm.pocket.questions import sample

GRID = (14, 14)
SCENES = ("plain", "dense", "pictograms")


@dataclass(frozen=True)
class Rows:
    """Features of several pictures, and what their tokens lie on.

    Attributes
    ----------
    title : str
    features : list of Tensor [N, D], float32
    regions : list of int array [N], or None
        The region of each token; -1: of none that is counted.
    """

    title: str
    features: list[Tensor]
    regions: list[np.ndarray] | None

    def of(self, pictures: np.ndarray) -> Rows:
        """Those of some pictures."""
        regions = None if self.regions is None else [self.regions[i] for i in pictures]
        return Rows(self.title, [self.features[i] for i in pictures], regions)


def pocket(pictures: int, name: str = "pocket") -> Rows:
    """What a shipped model's projector gives for validation scenes, its three kinds in turn."""
    model, processor = load(name, device="cpu")
    kinds = [SCENES[i % len(SCENES)] for i in range(pictures)]
    scenes = [sample("validation", i, kind)[0] for i, kind in enumerate(kinds)]
    pixels = processor.image_processor(
        [scene.picture() for scene in scenes], return_tensors="pt"
    ).pixel_values
    with torch.inference_mode():
        features = model.get_image_features(pixel_values=pixels).pooler_output
    owners = [scene.owner.reshape(-1) for scene in scenes]
    return Rows(name, [rows.float().clone() for rows in features], owners)


def gaussian(pictures: int, n: int, d: int) -> Rows:
    """Independent standard normal entries."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(pictures, n, d, generator=generator)
    return Rows("Gaussian", list(rows), None)
