"""Pictures as people have them: odd ones work, broken ones get one sentence."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparevlm.images import open_picture, read_picture

RAMP = np.linspace(0, 255, 16 * 16).round().astype(np.uint8).reshape(16, 16)


def colours() -> Image.Image:
    return Image.fromarray(np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1))


def pixels(path: Path) -> np.ndarray:
    picture = open_picture(path)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def png(width: int, height: int, data: bytes) -> bytes:
    """A greyscale PNG that says what we want it to say."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


# ---------------------------------------------------------------- what works


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "webp", "ppm", "gif"])
def test_lossless_formats_give_the_pixels(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    picture = Image.fromarray(RAMP).convert("RGB")
    picture.save(path, **({"lossless": True} if ending == "webp" else {}))
    assert np.array_equal(pixels(path), np.asarray(picture))


def test_jpeg_is_read(tmp_path):
    colours().save(tmp_path / "a.jpg", quality=95)
    assert np.abs(pixels(tmp_path / "a.jpg").astype(int) - np.asarray(colours())).mean() < 12


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(path)
    with Image.open(path) as raw:
        assert raw.mode.startswith("I")
    assert np.array_equal(pixels(path)[..., 1], RAMP)


def test_dark_sixteen_bit_stays_dark(tmp_path):
    Image.fromarray(np.full((8, 8), 257 * 10, np.uint16)).save(tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png") == 10).all()


def test_big_endian_sixteen_bit(tmp_path):
    picture = Image.frombytes(
        "I;16B", (16, 16), (RAMP.astype(np.uint16) * 257).astype(">u2").tobytes()
    )
    picture.save(tmp_path / "a.tiff")
    assert np.array_equal(pixels(tmp_path / "a.tiff")[..., 0], RAMP)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (RAMP.astype(np.float32) / 255, RAMP),
        (RAMP.astype(np.float32), RAMP),
        (RAMP.astype(np.float32) * 1000 - 5000, RAMP),
        (RAMP.astype(np.int32) * 257, RAMP),
        (RAMP.astype(np.int32) * 100_000, RAMP),
        (np.full((16, 16), -3.0, np.float32), np.zeros_like(RAMP)),
    ],
)
def test_floats_and_wide_integers(tmp_path, values, expected):
    Image.fromarray(values).save(tmp_path / "a.tiff")
    found = pixels(tmp_path / "a.tiff")[..., 2].astype(int)
    assert np.abs(found - expected).max() <= 1


def test_floats_that_are_no_numbers(tmp_path):
    values = RAMP.astype(np.float32) / 255
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tiff")
    assert np.array_equal(pixels(tmp_path / "a.tiff")[1:, :, 0], RAMP[1:])


@pytest.mark.parametrize("ending", ["jpg", "tiff"])
def test_cmyk(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK").save(path)
    assert np.abs(pixels(path).astype(int) - (200, 30, 60)).max() < 8


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tiff"])
def test_first_frame_of_an_animation(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    with Image.open(path) as raw:
        assert raw.n_frames == 3
    assert np.array_equal(pixels(path), np.asarray(frames[0]))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_on_white(tmp_path, mode):
    picture = Image.new(mode, (4, 4), (0, 0, 0, 0)[-len(mode) :])
    picture.putpixel((1, 1), (50, 50, 50, 255)[-len(mode) :])
    picture.putpixel((2, 2), (0, 0, 0, 51)[-len(mode) :])
    picture.save(tmp_path / "a.png")
    found = pixels(tmp_path / "a.png")
    assert found[0, 0].tolist() == [255] * 3
    assert found[1, 1].tolist() == [50] * 3
    assert np.abs(found[2, 2].astype(int) - 204).max() <= 1


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_palette_with_transparency(tmp_path, ending):
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([10, 20, 30, 200, 100, 0])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / f"a.{ending}", transparency=0)
    found = pixels(tmp_path / f"a.{ending}")
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[0, 1].tolist() == [200, 100, 0]


def test_palette_and_one_bit(tmp_path):
    colours().quantize(32).save(tmp_path / "p.png")
    assert pixels(tmp_path / "p.png").shape == (16, 16, 3)
    Image.fromarray(RAMP > 100).save(tmp_path / "b.png")
    assert np.array_equal(pixels(tmp_path / "b.png")[..., 0], np.where(RAMP > 100, 255, 0))


def test_orientation_is_honoured(tmp_path):
    picture = Image.new("RGB", (20, 10), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert open_picture(tmp_path / "a.jpg").size == (10, 20)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's
def test_damaged_orientation_does_not_matter(tmp_path):
    colours().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff garbage")
    assert open_picture(str(tmp_path / "a.jpg")).size == (16, 16)


def test_no_file_stays_open(tmp_path):
    colours().save(tmp_path / "a.png")
    picture = open_picture(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    assert picture.getpixel((0, 0)) == (0, 0, 255)
    assert getattr(picture, "fp", None) is None


def test_one_pixel(tmp_path):
    Image.new("L", (1, 1), 7).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").tolist() == [[[7, 7, 7]]]


# ---------------------------------------------------------------- what does not


def refused(path, *words: str, kind: type[Exception] = ValueError) -> None:
    with pytest.raises(kind) as caught:
        open_picture(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    for word in words:
        assert word in message, message


def test_missing(tmp_path):
    refused(tmp_path / "no.png", "does not exist", "no.png", kind=FileNotFoundError)
    refused(tmp_path / "x" / "no.png", "does not exist", kind=FileNotFoundError)


def test_names_that_are_no_files(tmp_path):
    refused("https://example.org/cat.png", "web address")
    refused(tmp_path, "directory")
    refused("a\0b.png", "cannot be read")
    refused("a" * 300, "cannot be read")
    colours().save(tmp_path / "a.png")
    refused(tmp_path / "a.png" / "b.png", "cannot be read")


def test_a_pipe_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    refused(tmp_path / "a.png", "not a regular file")


def test_empty_file(tmp_path):
    (tmp_path / "a.png").touch()
    refused(tmp_path / "a.png", "empty file")


@pytest.mark.parametrize(
    "content", [b"hello", b"%PDF-1.7", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x00" * 99]
)
def test_not_a_picture(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    refused(tmp_path / "a.png", "not a picture", "PNG")


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tiff", "bmp", "gif"])
@pytest.mark.parametrize("share", [0.9, 0.5])
def test_truncated(tmp_path, ending, share):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole, part = tmp_path / f"whole.{ending}", tmp_path / f"part.{ending}"
    Image.fromarray(noise).save(whole)
    data = whole.read_bytes()
    part.write_bytes(data[: int(share * len(data))])
    refused(part, "part")


def test_no_pixels(tmp_path):
    for name, data in {
        "a.png": png(0, 0, b""),
        "b.png": png(0, 5, b""),
        "c.gif": b"GIF89a" + struct.pack("<HHBBB", 0, 0, 0, 0, 0) + b",\0\0\0\0\0\0\0\0\0\x02\0;",
        "d.ppm": b"P6 0 0 255\n",
    }.items():
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, name)


def test_the_limit_is_ours(tmp_path, monkeypatch):
    """Some libraries switch Pillow's off."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    Image.new("1", (14_000, 14_000)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "too many pixels (14000 x 14000)", "scale it down")


def test_bytes(tmp_path):
    Image.new("RGB", (20, 30), "red").save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert read_picture(data).size == (20, 30)
    for broken, words in ((b"", "is empty"), (data[:60], "damaged"), (b"GIF89 no", "that can be")):
        with pytest.raises(ValueError, match=words):
            read_picture(broken, "of row 3")


def test_decompression_bomb(tmp_path):
    (tmp_path / "a.png").write_bytes(png(60_000, 60_000, b"\0" * 1000))
    refused(tmp_path / "a.png", "too many pixels", "scale it down")


@pytest.mark.parametrize("size", [(1, 300), (5000, 20)])
def test_too_narrow(tmp_path, size):
    Image.new("L", size).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "200 times", "crop")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_garbage_after_the_header_never_escapes(tmp_path):
    """Whatever the decoders raise, it is a ValueError; a picture that still opens is fine."""
    rng = np.random.default_rng(1)
    for ending in ("png", "jpg", "webp", "tiff", "gif", "bmp", "ico", "tga", "ppm"):
        whole = tmp_path / f"whole.{ending}"
        colours().save(whole)
        data = np.frombuffer(whole.read_bytes(), np.uint8)
        for _ in range(12):
            damaged = data.copy()
            damaged[rng.integers(4, len(data), 6)] = rng.integers(0, 256, 6)
            path = tmp_path / f"damaged.{ending}"
            path.write_bytes(damaged.tobytes())
            try:
                assert open_picture(path).mode == "RGB"
            except ValueError as error:
                assert "\n" not in str(error)
