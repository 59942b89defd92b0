"""Methods reproduce what the authors' programs choose."""

from __future__ import annotations

import numpy as np
import torch

from sparevlm.methods import SPARE, CDPruner, DivPrune, VisPruner
from sparevlm.tokens import Query, VisualTokens
from tests import golden


def load(path):
    case = np.load(path)
    query = Query(torch.from_numpy(case["patch_embeds"]), torch.from_numpy(case["text_embeds"]))
    attention = torch.from_numpy(case["cls_attention"])
    features = torch.from_numpy(case["features"])
    return case, VisualTokens(features, query=query, encoder_attention=attention)


@golden.cases
def test_divprune(path):
    case, tokens = load(path)
    order = DivPrune(int(case["k"])).reduce(tokens).order
    assert order.tolist() == case["divprune_order"].tolist()


@golden.cases
def test_cdpruner(path):
    case, tokens = load(path)
    kept = CDPruner(int(case["k"])).reduce(tokens).indices
    assert kept.tolist() == case["cdpruner_kept"].tolist()


@golden.cases
def test_vispruner(path):
    case, tokens = load(path)
    kept = VisPruner(int(case["k"]), important=0.5).reduce(tokens).indices
    assert kept.tolist() == case["vispruner_kept"].tolist()


@golden.cases
def test_normalised_spare_with_full_guidance_is_cdpruner(path):
    case, tokens = load(path)
    method = SPARE(int(case["k"]), guidance="anti", strength=1.0, normalize=True)
    assert method.reduce(tokens).indices.tolist() == case["cdpruner_kept"].tolist()


@golden.cases
def test_spare_without_guidance(path):
    case, tokens = load(path)
    order = SPARE(int(case["k"]), guidance="none").reduce(tokens).order
    assert order.tolist() == case["pivoted_qr_order"].tolist()
