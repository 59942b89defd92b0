"""A hundred pictograms of things that people know, and what is known of them.

Drawn from the font Noto Color Emoji (SIL Open Font License 1.1, see pictograms.LICENSE) by
``python -m sparevlm.pocket.training.sheet``.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

SHEET = Path(__file__).with_name("pictograms.png")
TILE = 32  # pixels; the sheet has COLUMNS tiles a row
COLUMNS = 10

CATEGORIES: dict[str, dict[str, str]] = {
    "animal": {
        "dog": "🐶", "cat": "🐱", "mouse": "🐭", "rabbit": "🐰", "bear": "🐻", "panda": "🐼",
        "lion": "🦁", "tiger": "🐯", "horse": "🐴", "cow": "🐮", "pig": "🐷", "monkey": "🐵",
        "elephant": "🐘", "camel": "🐫", "frog": "🐸", "penguin": "🐧", "bird": "🐦",
        "owl": "🦉", "eagle": "🦅", "bee": "🐝", "butterfly": "🦋", "bat": "🦇", "snail": "🐌",
        "snake": "🐍", "fish": "🐟", "whale": "🐳", "dolphin": "🐬", "shark": "🦈",
        "octopus": "🐙", "crab": "🦀",
    },
    "fruit": {
        "apple": "🍎", "pear": "🍐", "banana": "🍌", "grapes": "🍇", "strawberry": "🍓",
        "cherries": "🍒", "lemon": "🍋", "melon": "🍉", "pineapple": "🍍", "orange": "🍊",
    },
    "food": {
        "carrot": "🥕", "bread": "🍞", "cheese": "🧀", "egg": "🥚", "pizza": "🍕",
        "burger": "🍔", "fries": "🍟", "cake": "🎂", "cookie": "🍪", "icecream": "🍦",
    },
    "vehicle": {
        "car": "🚗", "taxi": "🚕", "bus": "🚌", "truck": "🚚", "tractor": "🚜", "train": "🚂",
        "bicycle": "🚲", "motorcycle": "🏍", "airplane": "✈", "helicopter": "🚁",
        "rocket": "🚀", "ship": "🚢", "sailboat": "⛵",
    },
    "tool": {
        "hammer": "🔨", "wrench": "🔧", "axe": "🪓", "scissors": "✂", "broom": "🧹", "key": "🔑",
        "magnet": "🧲", "pencil": "✏", "microscope": "🔬",
    },
    "face": {
        "clown": "🤡", "robot": "🤖", "ghost": "👻", "alien": "👽", "skull": "💀", "baby": "👶",
        "cowboy": "🤠",
    },
    "garment": {
        "shirt": "👕", "jeans": "👖", "dress": "👗", "shoe": "👟", "hat": "👒", "glove": "🧤",
        "sock": "🧦", "crown": "👑",
    },
    "instrument": {"guitar": "🎸", "trumpet": "🎺", "violin": "🎻", "drum": "🥁"},
    "plant": {"tree": "🌳", "cactus": "🌵", "rose": "🌹", "sunflower": "🌻", "mushroom": "🍄"},
    "object": {
        "clock": "⏰", "camera": "📷", "book": "📕", "umbrella": "☂", "balloon": "🎈",
        "gift": "🎁", "football": "⚽",
    },
}  # fmt: skip
"""Category -> name -> character."""

NAMES = tuple(name for members in CATEGORIES.values() for name in members)

PLURALS = {
    "animal": "animals",
    "fruit": "fruits",
    "vehicle": "vehicles",
    "tool": "tools",
    "face": "faces",
    "garment": "garments",
    "instrument": "instruments",
    "plant": "plants",
}
"""The categories that questions name."""

PROPERTIES: dict[str, frozenset[str]] = {
    "can be eaten": frozenset({*CATEGORIES["fruit"], *CATEGORIES["food"]}),
    "can fly": frozenset(
        "bird owl eagle bee butterfly bat airplane helicopter rocket balloon".split()
    ),
    "can be worn": frozenset(CATEGORIES["garment"]),
    "can make music": frozenset(CATEGORIES["instrument"]),
    "can live in the sea": frozenset("fish whale dolphin shark octopus crab".split()),
    "can drive on a road": frozenset("car taxi bus truck tractor bicycle motorcycle".split()),
}
"""What is true of which; of food, animals do not count."""

SIGN_WORDS = tuple("dog cat cow pig bee owl car bus key hat egg stop open exit sale zoo".split())
SIGN_NUMBERS = tuple(str(n) for n in range(1, 13))


def category(name: str) -> str:
    """The category that a pictogram belongs to."""
    return next(what for what, members in CATEGORIES.items() if name in members)


@lru_cache(maxsize=1)
def _sheet() -> Image.Image:
    with Image.open(SHEET) as sheet:
        return sheet.convert("RGBa")  # premultiplied, so that resizing leaves no fringes


@lru_cache(maxsize=2048)
def sprite(name: str, extent: int) -> tuple[np.ndarray, np.ndarray]:
    """A pictogram `extent` pixels wide and high.

    Returns
    -------
    color : float32 array [extent, extent, 3], 0 to 255, not multiplied by the opacity.
    opacity : float32 array [extent, extent], 0 to 1.
    """
    row, column = divmod(NAMES.index(name), COLUMNS)
    box = (column * TILE, row * TILE, (column + 1) * TILE, (row + 1) * TILE)
    tile = _sheet().resize((extent, extent), Image.Resampling.BOX, box=box)
    pixels = np.asarray(tile, np.float32)
    opacity = pixels[..., 3] / 255.0
    return pixels[..., :3] / np.maximum(opacity, 1e-3)[..., None], opacity
