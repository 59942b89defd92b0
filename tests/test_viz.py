"""Pictures of what was kept: the right patches, in the right places, saved whole or not at all."""

from __future__ import annotations

import base64
import errno
import io
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from matplotlib.figure import Figure
from PIL import Image

from sparevlm import viz
from sparevlm.hf import ImageReport
from sparevlm.pocket.model import make_image_processor, make_processor

GRID = (14, 14)


def report(kept=(0, 17, 195), **given) -> ImageReport:
    indices = torch.tensor(sorted(kept))
    given.setdefault("grid", GRID)
    return ImageReport(196, len(indices), indices, 1.0, **given)


def plain(size=(112, 112), colour=(200, 40, 40)) -> Image.Image:
    return Image.new("RGB", size, colour)


# ---------------------------------------------------------------- the region seen


def test_everything_is_seen_without_a_processor():
    assert viz.seen_region((320, 200)) == (0, 0, 320, 200)


@pytest.mark.parametrize("size", [(112, 112), (300, 200), (200, 300), (57, 91), (640, 63)])
def test_region_is_where_the_pixels_come_from(size):
    """Blackening what lies outside the region changes nothing the model sees (but the border)."""
    processor = make_image_processor()
    left, top, right, bottom = viz.seen_region(size, processor)
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    blackened = noise.copy()
    outside = np.ones(noise.shape[:2], bool)
    outside[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = False
    blackened[outside] = 0
    seen = [
        np.asarray(processor(Image.fromarray(a), return_tensors="pt").pixel_values)[0]
        for a in (noise, blackened)
    ]
    assert np.array_equal(seen[0][:, 6:-6, 6:-6], seen[1][:, 6:-6, 6:-6])
    assert right - left == pytest.approx(bottom - top, rel=0.02)


def test_a_processor_with_an_image_processor_counts_as_one():
    assert viz.seen_region((300, 200), make_processor()) == viz.seen_region(
        (300, 200), make_image_processor()
    )


def test_crop_larger_than_the_picture_reaches_beyond_it():
    processor = SimpleNamespace(
        do_resize=False, do_center_crop=True, crop_size={"height": 100, "width": 100}
    )
    assert viz.seen_region((60, 80), processor) == (-20, -10, 80, 90)


def test_padding_to_a_square():
    from transformers import LlavaImageProcessorPil

    processor = LlavaImageProcessorPil(
        do_pad=True, size={"height": 100, "width": 100}, crop_size={"height": 100, "width": 100}
    )
    assert viz.seen_region((60, 100), processor) == (-20, 0, 80, 100)


def test_stretching_to_a_square_sees_everything():
    processor = SimpleNamespace(do_resize=True, size={"height": 336, "width": 336})
    assert viz.seen_region((60, 100), processor) == (0, 0, 60, 100)


def test_longest_edge_bounds_the_resizing():
    processor = SimpleNamespace(
        do_resize=True, size={"shortest_edge": 100, "longest_edge": 200},
        do_center_crop=True, crop_size={"height": 50, "width": 100},
    )  # fmt: skip
    assert viz.seen_region((400, 100), processor) == (100, 0, 300, 100)


# ---------------------------------------------------------------- overlay


def cell(drawn: Image.Image, row: int, column: int) -> np.ndarray:
    """Colour in the middle of a patch of a square overlay."""
    step = drawn.width / 14
    return np.asarray(drawn)[int((row + 0.5) * step), int((column + 0.5) * step)].astype(int)


def test_kept_stay_and_others_are_dimmed():
    drawn = viz.overlay(plain(), report(kept=(0, 17, 195)))
    assert drawn.mode == "RGB" and drawn.size == (448, 448)
    for index in (0, 17, 195):
        assert cell(drawn, *divmod(index, 14)).tolist() == [200, 40, 40]
    for index in (1, 16, 18, 31, 194):
        dropped = cell(drawn, *divmod(index, 14))
        assert dropped.max() < 100 and np.ptp(dropped) < 20


def test_outline_frames_kept_patches_only():
    drawn = np.asarray(viz.overlay(plain(), report(kept=(30,))))  # row 2, column 2: 64 to 96
    marked = (drawn == viz.OUTLINE).all(-1)
    rows, columns = np.nonzero(marked)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (64, 95, 64, 95)
    assert not marked[70:90, 70:90].any()


def test_all_kept_is_the_picture_itself():
    noise = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (500, 500, 3), dtype=np.uint8)
    )
    drawn = viz.overlay(noise, report(kept=range(196)))
    assert np.array_equal(np.asarray(drawn)[4:-4, 4:-4], np.asarray(noise)[4:-4, 4:-4])


def test_what_was_not_seen_is_darkest():
    drawn = np.asarray(viz.overlay(plain((300, 100)), report(), make_image_processor())).astype(int)
    assert drawn.shape == (448, 1344, 3)
    unseen, dropped = drawn[200, 100], drawn[200, 600]
    assert unseen.max() < 30 < dropped.max()
    kept = drawn[16, 448 + 16]  # patch 0 lies at the left edge of the crop
    assert kept.tolist() == [200, 40, 40]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), (448, 448)),
        ((30, 20), (672, 448)),
        ((112, 224), (448, 896)),
        ((640, 480), (640, 480)),
        ((6000, 4000), (2048, 1365)),
        ((4480, 448), (4480, 448)),
    ],
)
def test_size_of_the_overlay(size, expected):
    assert viz.overlay(plain(size), report()).size == expected


def test_input_is_left_alone_and_any_mode_works():
    for mode in ("L", "RGBA", "P", "1"):
        picture = plain().convert(mode)
        before = picture.tobytes()
        assert viz.overlay(picture, report()).mode == "RGB"
        assert picture.tobytes() == before


def test_grid_need_not_be_square():
    found = ImageReport(6, 1, torch.tensor([5]), 1.0, grid=(2, 3))
    drawn = np.asarray(viz.overlay(plain((300, 200)), found)).astype(int)
    assert drawn[-50, -50].tolist() == [200, 40, 40]
    assert drawn[50, 50].max() < 100


def test_without_a_grid_there_is_no_overlay():
    with pytest.raises(ValueError, match="no grid"):
        viz.overlay(plain(), report(grid=None))


def test_side_by_side():
    one, two = plain((100, 50)), plain((80, 100), (0, 0, 255))
    row = viz.side_by_side([one, two], gap=10)
    assert row.size == (100 + 10 + 40, 50)
    assert row.getpixel((105, 25)) == (255, 255, 255)
    assert row.getpixel((130, 25)) == (0, 0, 255)
    assert viz.side_by_side([one]) is one
    with pytest.raises(ValueError, match="at least one"):
        viz.side_by_side([])


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heatmap(dtype):
    scores = torch.linspace(-1, 1, 196, dtype=dtype)
    figure = viz.heatmap(plain((200, 100)), report(scores=scores), make_image_processor())
    axes, bar = figure.axes
    assert bar.get_ylabel() == "similarity with the question"
    shown = axes.images[1]
    assert shown.get_array().shape == GRID
    assert shown.get_extent() == [50.0, 150.0, 100.0, 0.0]
    assert [len(lines.get_segments()) for lines in axes.collections] == [12, 12]


def test_heatmap_needs_scores_and_a_grid():
    with pytest.raises(ValueError, match="no scores"):
        viz.heatmap(plain(), report())
    with pytest.raises(ValueError, match="no grid"):
        viz.heatmap(plain(), report(scores=torch.zeros(196), grid=None))


def test_residual_curve_with_bound():
    curve = torch.tensor([1.0, 0.3, 0.1, 0.02])
    bound = torch.tensor([1.0, 0.25, 0.05, 0.01, 0.001], dtype=torch.float64)
    axes = viz.residual_curve(report(curve=curve), bound).axes[0]
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "visual tokens kept" and "%" in axes.get_ylabel()
    chosen, lowest = axes.lines
    assert len(chosen.get_ydata()) == len(lowest.get_ydata()) == 4
    assert "3 of 196 tokens leave 2 %" in axes.get_title("left")


def test_residual_curve_is_linear_where_little_happens():
    axes = viz.residual_curve(report(curve=torch.tensor([1.0, 0.8, 0.7, 0.6]))).axes[0]
    assert axes.get_yscale() == "linear" and len(axes.lines) == 1


@pytest.mark.parametrize("curve", [[1.0, 0.1, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0]])
def test_residual_curve_may_reach_zero(curve, tmp_path):
    viz.save(viz.residual_curve(report(curve=torch.tensor(curve))), tmp_path / "a.png")


def test_residual_curve_refuses():
    with pytest.raises(ValueError, match="no residual"):
        viz.residual_curve(report())
    with pytest.raises(ValueError, match="bound has shape"):
        viz.residual_curve(report(curve=torch.ones(4)), torch.tensor(0.5))


def test_pyplot_is_not_touched():
    viz.residual_curve(report(curve=torch.ones(4)))
    assert Gcf.get_all_fig_managers() == []


# ---------------------------------------------------------------- saving


@pytest.mark.parametrize("ending", viz.PICTURE_SUFFIXES)
def test_save_picture(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    assert viz.save(plain((20, 10)), str(path)) == path
    with Image.open(path) as found:
        assert found.size == (20, 10)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", [".png", ".pdf", ".svg"])
def test_save_figure(tmp_path, ending):
    viz.save(Figure(), tmp_path / f"a{ending}")
    assert (tmp_path / f"a{ending}").stat().st_size > 100


def test_save_replaces_keeps_links_and_ordinary_permissions(tmp_path):
    old = os.umask(0o022)
    try:
        (tmp_path / "real.PNG").write_bytes(b"old")
        (tmp_path / "link.png").symlink_to(tmp_path / "real.PNG")
        viz.save(plain(), tmp_path / "link.png")
    finally:
        os.umask(old)
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real.PNG").stat().st_mode & 0o777 == 0o644
    with Image.open(tmp_path / "real.PNG") as found:
        assert found.size == (112, 112)


@pytest.mark.parametrize("name", ["a.txt", "a", "a.pdf", "no/a.png", "folder.png"])
def test_save_refuses_and_writes_nothing(tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError) as caught:
        viz.save(plain(), tmp_path / name)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.png"]


def test_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(self, data):
        with self.open("wb") as file:
            file.write(data[:4])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match=r"No space left on device: '[^']*a\.png'$"):
        viz.save(plain(), path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_save_wants_a_picture(tmp_path):
    with pytest.raises(TypeError, match="str cannot be saved"):
        viz.save("picture", tmp_path / "a.png")


def test_the_looks_of_curves_can_be_chosen() -> None:
    from sparevlm.figures import COLORS

    lines = viz.residual_curves({"a": [1, 0.5], "b": [1, 0.4]}, None, [1, 0]).axes[0].lines
    assert [line.get_color() for line in lines] == [COLORS[1], COLORS[0]]


# -- notebooks


@pytest.fixture(scope="module")
def pruned():
    from sparevlm import SPARE, load

    model, processor = load("pocket")
    pictures = [
        Image.open(f"examples/{name}.png").convert("RGB") for name in ("scene", "pictograms")
    ]
    prompts = ["USER: <image>\nwhat is it ? ASSISTANT:"] * 2
    inputs = processor(images=pictures, text=prompts, return_tensors="pt")
    with SPARE(keep=12, guidance="none")(model) as handle:
        model(**inputs)
    return pictures, processor, handle.report


def test_a_report_shows_itself(pruned) -> None:
    _, _, report = pruned
    shown = report._repr_html_()
    assert shown.count("<img ") == 2
    assert shown.count("spare: 12 of 196 visual tokens; ") == 4  # beside the picture, and below
    for one, data in zip(report, re.findall(r"base64,([^\"]+)", shown), strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert picture.size == (448, 448)
        expected = viz.overlay(viz.as_seen(one), one)
        assert np.array_equal(np.asarray(picture), np.asarray(expected))
        assert f"{100 * one.residual:.1f} % of the features&#x27; energy is not explained" in shown


def test_a_preview_is_a_list_that_shows_itself() -> None:
    from sparevlm import SPARE, load, preview

    model, processor = load("pocket")
    picture = Image.open("examples/scene.png").convert("RGB")
    prompt = "USER: <image>\nwhat is it ? ASSISTANT:"
    inputs = processor(images=[picture], text=[prompt], return_tensors="pt")
    found = preview(SPARE(keep=12, guidance="none"), model, inputs)
    assert isinstance(found, list) and len(found) == 1 and found == [found[0]]
    assert "<img " in found._repr_html_()
    line = r"\[0\] spare: 12 of 196 visual tokens; chosen in [\d.]+ ms"
    assert re.fullmatch(line, repr(found))
    curve, _ = found[0].reconstruction()  # showing took nothing away
    assert float(curve[-1]) == pytest.approx(found[0].residual, abs=1e-5)
    (kept,) = preview(SPARE(keep=1.0), model, inputs)
    assert kept.caption == (
        "spare: 196 of 196 visual tokens; 0.0 % of the features' energy is not explained"
    )


def test_a_part_of_a_report_shows_itself(pruned) -> None:
    from sparevlm.report import LISTED, SHOWN, Report

    _, _, report = pruned
    assert isinstance(report[1:], Report) and report[1:] == [report[1]]
    many = Report([report[0]] * (SHOWN + 3))
    assert many._repr_html_().count("<img ") == SHOWN and "3 more" in many._repr_html_()
    lines = repr(many).splitlines()
    assert len(lines) == LISTED + 1 and lines[-1] == f"... {SHOWN + 3 - LISTED} more"
    assert max(map(len, lines)) < 80
    assert "no picture" in repr(Report()) and "no picture" in Report()._repr_html_()


def test_a_caption_of_methods_inside() -> None:
    """The first layers get everything, so that there is no residual to tell."""
    from sparevlm import SPARE, FastV, Staged, load

    model, processor = load("pocket")
    picture = Image.open("examples/scene.png").convert("RGB")
    prompt = "USER: <image>\nwhat is it ? ASSISTANT:"
    inputs = processor(images=[picture], text=[prompt], return_tensors="pt")
    with Staged(SPARE(keep=64, guidance="none"), FastV(keep=0.8))(model) as handle:
        model(**inputs)
        assert repr(handle).startswith("<Inside: Staged(first=SPARE(keep=64, ")
    assert repr(handle).endswith(" on LlavaForConditionalGeneration, detached>")
    (one,) = handle.report
    assert re.fullmatch(
        r"spare, then fastv: \d+ of 64 visual tokens in the last layers, 5\d\.\d on average; "
        r"chosen in [\d.]+ ms", one.caption
    )  # fmt: skip


def test_what_the_encoder_saw_looks_like_the_picture(pruned) -> None:
    pictures, _, report = pruned
    for picture, one in zip(pictures, report, strict=True):
        seen = np.asarray(viz.as_seen(one), np.float64).ravel()
        assert (
            np.corrcoef(seen, np.asarray(picture.resize((112, 112)), np.float64).ravel())[0, 1]
            > 0.99
        )


def test_a_report_without_pixels_or_grid(pruned) -> None:
    import dataclasses

    one = pruned[2][0]
    assert "<img " in dataclasses.replace(one, pixels=None)._repr_html_()
    bare = dataclasses.replace(one, grid=None, method="<mine>")._repr_html_()
    assert "&lt;mine&gt;: " in bare
    assert "<img " not in bare and "12 of 196" in bare
