"""Opening pictures: whatever people have on disk becomes plain 8-bit RGB, or one clear sentence."""

from __future__ import annotations

import io
import stat
from os import PathLike, fspath
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Raster formats only: Pillow would start Ghostscript for an EPS file.
FORMATS = "PNG JPEG MPO WEBP GIF BMP DIB TIFF PPM ICO TGA JPEG2000 AVIF".split()
MAX_PIXELS = 178_956_970  # Pillow's own limit, which other libraries switch off
MAX_RATIO = 200  # of the sides; image processors that fix the shorter one would explode above


def open_picture(path: str | PathLike[str]) -> Image.Image:
    """Read a picture completely and make it RGB.

    The first frame of an animation is taken, EXIF orientation is applied, transparent parts are
    laid on white, and 16-bit grey is scaled (not clipped) to 8 bit.

    Parameters
    ----------
    path : str or path
        A PNG, JPEG, WebP, GIF, TIFF, BMP or another common raster file.

    Returns
    -------
    PIL.Image.Image
        Mode "RGB", loaded, no file left open.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no readable picture: a directory, empty, of another kind, truncated, without
        pixels, or far too large or narrow. One sentence that says what to do.
    """
    name = fspath(path)
    _check_file(name)
    return _decoded(name, repr(name))


def read_picture(data: bytes, name: str = "this picture") -> Image.Image:
    """Read a picture from the bytes of a file, as `open_picture` does.

    Parameters
    ----------
    data : bytes
    name : str
        What errors call it.

    Raises
    ------
    ValueError
        As `open_picture` does.
    """
    if not data:
        raise ValueError(f"picture {name} is empty: save or download it again")
    return _decoded(io.BytesIO(data), name)


def _decoded(source: str | io.BytesIO, name: str) -> Image.Image:
    Image.init()
    formats = [kind for kind in FORMATS if kind in Image.OPEN]  # AVIF is optional in Pillow
    try:
        with Image.open(source, formats=formats) as picture:
            _check_size(picture.size, name)
            picture.load()
            return _to_rgb(_upright(picture))
    except _Refused:
        raise
    except Image.DecompressionBombError:
        raise ValueError(
            f"picture {name} has too many pixels to be opened safely: scale it down first"
        ) from None
    except UnidentifiedImageError:
        raise ValueError(
            f"{name} is not a picture that can be read: give a PNG, JPEG, WebP, GIF, TIFF or BMP"
        ) from None
    except Exception as error:  # decoders raise almost anything on damaged data
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"picture {name} is truncated or damaged ({reason}): save or download it again"
        ) from error


class _Refused(ValueError):
    """A sentence of our own, not to be wrapped in another."""


def _check_file(name: str) -> None:
    if "://" in name:
        raise ValueError(f"{name!r} is a web address: download the picture and give the file")
    try:
        status = Path(name).stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"picture {name!r} does not exist: check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"picture {name!r} cannot be read ({reason}): check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise ValueError(f"{name!r} is a directory: give a picture file")
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise ValueError(f"{name!r} is not a regular file: save the picture to a file first")
    if status.st_size == 0:
        raise ValueError(f"picture {name!r} is an empty file: save or download it again")


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if min(size) < 1:
        raise _Refused(f"picture {name} has no pixels ({width} x {height}): give another one")
    if width * height > MAX_PIXELS:
        raise _Refused(
            f"picture {name} has too many pixels ({width} x {height}) to be opened safely: scale "
            "it down first"
        )
    if max(size) > MAX_RATIO * min(size):
        raise _Refused(
            f"picture {name} is {width} x {height} pixels, one side more than {MAX_RATIO} times "
            "the other: crop it first"
        )


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # damaged metadata must not cost the picture
        return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Mode "RGB", always a new image."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return Image.fromarray(_to_bytes(np.asarray(picture))).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB") if picture.mode != "RGB" else picture.copy()
    colours = picture.convert("RGBA")
    white = Image.new("RGBA", colours.size, "white")
    return Image.alpha_composite(white, colours).convert("RGB")


def _to_bytes(grey: np.ndarray) -> np.ndarray:
    """Scale grey [H, W] of 16 or 32 bits, or float, to uint8.

    White is 1.0 or 255.0 for floats and 65535 for integers, whichever first holds all values;
    anything else is stretched from its lowest to its highest value.
    """
    values = np.nan_to_num(grey.astype(np.float64))
    low, high = float(values.min()), float(values.max())
    whites = (1.0, 255.0) if grey.dtype.kind == "f" else (65535.0,)
    fitting = [white for white in whites if low >= 0 and high <= white]
    if fitting:
        low, high = 0.0, fitting[0]
    scaled = (values - low) * (255.0 / max(high - low, 1e-12))
    return scaled.round().astype(np.uint8)
