"""Draw pictograms.png from the font Noto Color Emoji (Debian: fonts-noto-color-emoji)."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sparevlm.pocket.pictograms import CATEGORIES, COLUMNS, SHEET, TILE

SIZE = 109  # the one size that this bitmap font has
VARIANT = "\N{VARIATION SELECTOR-16}"  # asks for the coloured form of old characters


def draw_sheet(font: Path) -> Image.Image:
    """All pictograms, COLUMNS a row, each fitted into TILE x TILE pixels."""
    face = ImageFont.truetype(str(font), SIZE)
    characters = [c for members in CATEGORIES.values() for c in members.values()]
    rows = -(-len(characters) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * TILE, rows * TILE))
    for i, character in enumerate(characters):
        canvas = Image.new("RGBA", (3 * SIZE, 3 * SIZE))
        text = character if ord(character[0]) > 0xFFFF else character + VARIANT
        ImageDraw.Draw(canvas).text((SIZE // 2, SIZE // 2), text, font=face, embedded_color=True)
        box = canvas.getbbox()
        if box is None:
            raise ValueError(f"{font} does not hold {character}")
        glyph = canvas.crop(box)
        side = max(glyph.size)
        square = Image.new("RGBA", (side, side))
        square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
        small = square.convert("RGBa").resize((TILE, TILE), Image.Resampling.LANCZOS)
        row, column = divmod(i, COLUMNS)
        sheet.paste(small.convert("RGBA"), (column * TILE, row * TILE))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("font", type=Path, help="NotoColorEmoji.ttf")
    options = parser.parse_args()
    draw_sheet(options.font).save(SHEET, optimize=True)
    print(SHEET)


if __name__ == "__main__":
    main()
