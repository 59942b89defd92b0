"""Ties go to the lowest index."""

from __future__ import annotations

import pytest
import torch

from sparevlm.selection import select

from .data import gaussian, uniform

pytestmark = pytest.mark.usefixtures("source")
both = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])


@both
def test_orthogonal_rows_come_by_index(dtype: torch.dtype) -> None:
    assert select(torch.eye(12, dtype=dtype), 12).order.tolist() == list(range(12))


@both
def test_signs_do_not_break_ties(dtype: torch.dtype) -> None:
    x = torch.diag(torch.tensor([-1, 1, -1, 1], dtype=dtype))
    assert select(x, 4).order.tolist() == [0, 1, 2, 3]


@both
def test_first_of_duplicates_stands_for_all(dtype: torch.dtype) -> None:
    x = gaussian(6, 32, seed=1, dtype=dtype).repeat_interleave(4, dim=0)
    order = select(x, 6).order
    assert sorted(order.tolist()) == [0, 4, 8, 12, 16, 20]


@both
def test_duplicates_fill_up_by_norm_then_index(dtype: torch.dtype) -> None:
    x = torch.tensor([[1, 0], [3, 0], [0, 2], [3, 0], [1, 0], [0, 2]], dtype=dtype)
    found = select(x, 6)
    assert found.order.tolist() == [1, 2, 3, 5, 0, 4]
    assert found.residual[2:].tolist() == [0] * 5


@both
def test_weights_make_and_break_ties(dtype: torch.dtype) -> None:
    x = torch.diag(torch.tensor([1, 2, 4, 1], dtype=dtype))
    equal = torch.tensor([1, 0.5, 0.25, 1])
    assert select(x, 4, weights=equal).order.tolist() == [0, 1, 2, 3]
    assert select(x, 4).order.tolist() == [2, 1, 0, 3]


@both
def test_rounding_does_not_break_ties(dtype: torch.dtype) -> None:
    x = torch.eye(5, dtype=dtype)
    x[3, 3] += torch.finfo(dtype).eps  # one rounding larger
    assert select(x, 5).order.tolist() == [0, 1, 2, 3, 4]


@both
def test_visible_differences_are_no_ties(dtype: torch.dtype) -> None:
    x = torch.eye(5, dtype=dtype)
    x[3, 3] += 16 * torch.finfo(dtype).eps
    assert select(x, 5).order.tolist() == [3, 0, 1, 2, 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_frames_of_a_still_video_are_twins(dtype: torch.dtype, weighted: bool) -> None:
    """Twins round alike wherever they lie, so that the first frame is kept and no other."""
    frame = gaussian(50, 300, seed=11, dtype=dtype)
    w = (0.5 + uniform(50, seed=11) / 2).repeat(12) if weighted else None
    found = select(frame.repeat(12, 1), 50, weights=w)
    assert sorted(found.order.tolist()) == list(range(50))
