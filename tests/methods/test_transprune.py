"""TransPrune's score by hand; tests/hf/test_changes.py has it inside models."""

from __future__ import annotations

import math

import pytest
import torch

from sparevlm.methods import TransPrune
from tests.methods.test_in_decoder import tokens


@pytest.mark.parametrize("guided", [True, False])
def test_by_hand(guided) -> None:
    given = tokens(seed=7)
    total = [0.0] * 60
    for change in given.changes():
        below = sum(math.exp(1 - cosine) for cosine in change.all_cosines.tolist())
        for i in range(60):
            above = math.exp(1 - float(change.cosines[i]))
            total[i] += float(change.ratios[i]) * above / below
    paid = given.next_attention(torch.arange(2, 9)).sum(0).tolist()
    score = [t / sum(total) + guided * p / sum(paid) for t, p in zip(total, paid, strict=True)]
    found = TransPrune(keep=12, guided=guided).choose(given, 12)
    assert found.order.tolist() == sorted(range(60), key=lambda i: -score[i])[:12]


def test_published_stages() -> None:
    """LLaVA-1.5: 576 tokens in seven layers, then 504, 360 and 72."""
    method = TransPrune(keep=72, average=False)
    assert method.schedule(32, 576) == {7: 504, 9: 360, 12: 72}
    assert list(method.watched(32)) == [6, 7, 8, 9, 10, 11]
