"""The parts of the study of real features that need nothing from outside."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from bench.studies.common import Page
from bench.studies.real import choices, photographs
from bench.studies.real.fetch import Fetched
from bench.studies.real.halves import halves, interval, said
from bench.studies.real.measure import (
    KEEPS,
    errors,
    every,
    from_features,
    hits,
    norms,
    picks,
    plain_spare,
    small,
    under_outliers,
)
from bench.studies.real.measured import Measured
from bench.studies.real.outside import PATCH, majority
from bench.studies.real.photographs import SIDE, Photograph, all_photographs, webps
from bench.studies.real.rows import Rows
from bench.studies.real.tower import RENAMED, rebuilt, state_of
from bench.studies.real_features import study
from sparevlm.methods import method_class
from sparevlm.selection import reconstruction_error


@pytest.mark.parametrize("pictures", [1, 2, 7, 118])
def test_halves_share_nothing_and_leave_nothing_out(pictures):
    first, second = halves(pictures)
    assert sorted([*first, *second]) == list(range(pictures))
    assert len(first) - len(second) in (0, 1)
    assert all(np.array_equal(a, b) for a, b in zip(halves(pictures), (first, second), strict=True))


def test_more_comparisons_widen_an_interval():
    values = np.random.default_rng(1).normal(0.3, 1, 40)
    mean, low, high = interval(values, 1)
    _, lower, higher = interval(values, 50)
    assert lower < low < mean < high < higher and mean == pytest.approx(values.mean())
    assert interval(np.full(5, 0.25), 3) == (0.25, 0.25, 0.25)


def test_only_what_is_clear_of_zero_is_bold():
    assert said(np.full(9, 0.02), 4) == "**+2.0 [+2.0, +2.0]**"
    assert said(np.array([-0.5, 0.5] * 9), 4).startswith("+0.0 [-")
    assert said(np.zeros(9), 4) == "+0.0 [+0.0, +0.0]"


REGIONS = np.array([7] * 6 + [3, 3, -1, 5])


def test_regions_that_are_hit():
    assert every(REGIONS).tolist() == [3, 5, 7] and small(REGIONS).tolist() == [3, 5]
    draws = [torch.tensor([0, 1, 8]), torch.tensor([9, 6, 2])]
    assert hits(every(REGIONS), REGIONS, draws[:1]) == pytest.approx(1 / 3)
    assert hits(every(REGIONS), REGIONS, draws) == pytest.approx((1 / 3 + 1) / 2)
    assert hits(small(REGIONS), REGIONS, draws[:1]) == 0
    assert np.isnan(hits(np.arange(0), REGIONS, draws))


def test_most_of_a_patch_names_its_region():
    labels = np.zeros((2 * PATCH, 2 * PATCH), int)
    labels[:PATCH, PATCH - 6 :] = 4  # nearly half of the first patch, all of the second
    labels[PATCH:, 5:] = 2
    assert majority(labels).tolist() == [[0, 4], [2, 2]]


def exported(tower: Dinov2Model) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Constants and their readers, named as the exporter of the ONNX file named them."""
    arrays, users = {"decoder.final_conv.weight": np.ones((1, 2, 1, 1))}, {}
    for number, (name, value) in enumerate(tower.state_dict().items()):
        for old, new in RENAMED.items():
            name = name.replace(new, old)
        array, constant = value.numpy(), f"onnx::{number}"
        if name == "embeddings.position_embeddings":
            arrays |= {f"{constant}a": array[:, 1:], f"{constant}b": array[:, :1]}
            users |= {f"{constant}a": "/backbone/embeddings/Reshape_1"}
            users |= {f"{constant}b": "/backbone/embeddings/Concat_6"}
        elif array.ndim == 2 and "mask_token" not in name:
            arrays[constant] = array.T
            users[constant] = f"/backbone/{name.removesuffix('.weight').replace('.', '/')}/MatMul"
        elif "mask_token" not in name:
            arrays[f"backbone.{name}"] = array
    return arrays, users


def test_weights_of_a_graph_are_those_of_the_tower():
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    tower = Dinov2Model(config)
    torch.nn.init.normal_(tower.embeddings.position_embeddings)
    users = {**exported(tower)[1], "decoder.final_conv.weight": "/decoder/final_conv/Conv"}
    # A node's path has layers as "layer.0", with a dot.
    users = {key: user.replace("/layer/", "/layer.") for key, user in users.items()}
    state = state_of(exported(tower)[0], users)
    wanted = tower.state_dict()
    assert set(state) == set(wanted) - {"embeddings.mask_token"}
    assert all(torch.equal(state[name], wanted[name]) for name in state)


def test_a_graph_without_positions_is_refused():
    with pytest.raises(ValueError, match="0 parts of position"):
        state_of({"backbone.layernorm.bias": np.zeros(3)}, {})


def test_a_tower_that_differs_is_refused(tmp_path, monkeypatch):
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=384, num_hidden_layers=1, num_attention_heads=6, image_size=518, patch_size=14
    )
    monkeypatch.setattr("bench.studies.real.tower.Dinov2Config", lambda **_: config)
    tower = Dinov2Model(config).eval()
    arrays, users = exported(tower)
    np.savez(tmp_path / "weights.npz", **arrays)
    users = {key: user.replace("/layer/", "/layer.") for key, user in users.items()}
    (tmp_path / "users.json").write_text(str(users).replace("'", '"'))
    pixels = torch.randn(1, 3, 28, 28)
    with torch.inference_mode():
        tokens = tower(pixels).last_hidden_state.numpy()
    np.savez(tmp_path / "check.npz", pixels=pixels.numpy(), tokens=tokens)
    assert rebuilt(tmp_path)[1] < 1e-6
    np.savez(tmp_path / "check.npz", pixels=pixels.numpy(), tokens=tokens + 0.1)
    with pytest.raises(RuntimeError, match="away from the ONNX"):
        rebuilt(tmp_path)


def test_pictures_within_a_file():
    data = []
    for color in ("red", "blue"):
        stream = io.BytesIO()
        Image.new("RGB", (20, 10), color).save(stream, "webp")
        data.append(stream.getvalue())
    assert list(webps(b"head RIFF" + data[0] + b"\0\0between" + data[1] + b"tail")) == data


def test_a_crop_is_the_square_in_the_middle():
    image = Image.new("RGB", (400, 200), "red")
    image.paste("blue", (100, 0, 300, 200))
    crop = Photograph("package", "name", image).crop
    assert crop.shape == (SIDE, SIDE, 3) and (crop == (0, 0, 255)).all()


def test_without_debian_it_says_what_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "_python_packages", lambda *_: [])
    monkeypatch.setattr(photographs.shutil, "which", lambda _: None)
    with pytest.raises(RuntimeError, match="run this where apt-get and dpkg are"):
        all_photographs(tmp_path, tmp_path)


def test_methods_look_at_features_alone():
    makers = from_features()
    assert {"spare", "divprune", "greedy-css", "random", "uniform"} <= set(makers)
    assert not {"cdpruner", "average-pool", "no-image", "zoo-prune"} & set(makers)
    for name, maker in makers.items():
        (method, *_) = maker(8)
        assert method_class(name) is type(method) and not method.requires
    assert len(makers["random"](8)) == 3 and len(makers["divprune"](8)) == 1


def rows(pictures: int, n: int = 196, d: int = 12) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    spread = torch.linspace(3, 0.2, d)
    return [torch.randn(n, d, generator=generator) * spread for _ in range(pictures)]


@pytest.mark.parametrize("name", ["spare", "leverage", "uniform"])
def test_errors_are_those_of_the_tokens_picked(name):
    maker, (features,) = from_features()[name], rows(1)
    picked = picks(maker, features, (4, 8))
    for k, error in errors(features, picked).items():
        assert all(len(order) == k for order in picked[k])
        each = [float(reconstruction_error(features, order)) for order in picked[k]]
        assert error == pytest.approx(np.mean(each), abs=1e-9)


def test_long_tokens_are_taken_for_being_long():
    (features,) = rows(1)
    wasted, before, after = under_outliers(from_features()["norm"], features, 0)
    assert wasted == 3 and after > before
    for maker in (from_features()["divprune"], plain_spare(normalize=True)):  # by direction alone
        _, before, after = under_outliers(maker, features, 0)
        assert after == pytest.approx(before)


def test_lengths():
    features = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 3]])
    found = norms(features, np.array([0, 0, -1, 1]))
    assert (
        found["longest"] == 3 and found["twice"] == 0.25 and found["small"] == pytest.approx(5 / 3)
    )
    assert found["cosine"] == pytest.approx(1 / 3) and found["rank"] == 2


def a_measured(**changes: dict[str, float]) -> Measured:
    """Of SPARE and what is tried, the same number at all budgets of three pictures."""
    names = ["spare", *choices.candidates()]
    base = {"error": 0.2, "all": 0.5, "small": 0.4, "same": 1.0}
    made = {
        what: {n: np.full((3, len(KEEPS)), changes.get(what, {}).get(n, value)) for n in names}
        for what, value in base.items()
    }
    flat = np.zeros((3, len(KEEPS)))
    return Measured("made", *made.values(), flat, flat, flat, [])


def test_choices():
    half, one = choices.exponent_name(0.5), choices.exponent_name(1)
    assert choices.best_exponent(a_measured()) == 0
    assert choices.best_exponent(a_measured(all={half: 0.6, one: 0.55})) == 0.5
    tight, loose = choices.limit_name(1.1), choices.limit_name(1.5)
    injected = {choices.limit_name(c): np.full((3, 3), c) for c in choices.LIMITS}
    assert choices.best_limit(a_measured(), injected) == 1.1
    dear = a_measured(error={tight: 0.21, choices.limit_name(1.25): 0.203})
    assert choices.best_limit(dear, injected) == 1.5
    assert choices.limit_name(1.5) == loose


def test_differences_from_spare():
    half = choices.exponent_name(0.5)
    rows = choices.against(a_measured(all={half: 0.6}, error={half: 0.1}), [half], 9)
    assert [row[:2] for row in rows] == [[half, "8"], [half, "16"], [half, "32"]]
    assert rows[0][2:] == [
        "**+10.0 [+10.0, +10.0]**", "+0.0 [+0.0, +0.0]", "**-69.3 [-69.3, -69.3]**",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_page_from_end_to_end(tmp_path):
    """On made features, two photographs a half."""
    at = np.arange(196)
    regions = [np.where(at < 60, at // size, 99 + at // 20) for size in (2, 3, 3, 4)]
    packages = Counter({"package 1": 3, "other 2": 1})
    fetched = Fetched(
        Rows("last layer", rows(4, d=128), regions),
        Rows("layer 11", rows(4, d=128), regions),
        packages,
        1e-7,
    )
    text = study(fetched, Page(tmp_path, "real_features")).read_text()
    sections = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert sections[0] == "Lengths" and sections[-2:] == [
        "The other half",
        "What pocket cannot tell",
    ]
    assert "python -m bench.studies.real_features" in text and "| package 1 | 3 |" in text
    assert "nan" not in text
    for name in ("errors", "coverage"):
        assert f"(real_features-{name}.png)" in text
        assert 5000 < (tmp_path / f"real_features-{name}.png").stat().st_size < 80_000
    unseen = study(fetched, Page(tmp_path, "unseen"), confirm=False).read_text()
    assert "## The other half" not in unseen
