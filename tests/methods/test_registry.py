"""What holds for every method in the registry."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import sparevlm
from sparevlm.budgets import Residual
from sparevlm.methods import PruningMethod, get_method, list_methods, method_class
from sparevlm.tokens import Reduction, VisualTokens, check_reduction
from tests.methods.scene import everything

BAD_BUDGETS = [
    0,
    -1,
    -0.5,
    0.0,
    1.01,
    2.0,
    float("nan"),
    float("inf"),
    True,
    False,
    "12",
    None,
    [3],
]


NO_BUDGET = {"no-image"}  # keeps nothing, whatever the budget
BY_PLACE = {name for name in list_methods() if method_class(name).by_place}


every = pytest.mark.parametrize("name", list_methods())
choosing = pytest.mark.parametrize("name", sorted(set(list_methods()) - NO_BUDGET))


@choosing
@pytest.mark.parametrize("keep", [1, 2, 7, 59, 60, 61, 0.06, 0.5, 1.0, 1e-9])
def test_exactly_k_distinct_ascending(name, keep):
    wanted = min(keep, 60) if isinstance(keep, int) else max(1, round(keep * 60))
    seen = everything(dtype=torch.float32)
    found = get_method(name, keep).reduce(seen)
    check_reduction(found, seen, name)
    assert len(found.indices) == wanted
    if wanted == 60:
        assert found.features is None
    if found.order is not None:
        assert found.order.sort().values.equal(found.indices)


def test_orders_are_nested_where_a_method_says_so():
    """One selection then serves every smaller budget; twins and zero rows are no exception."""
    really = set()
    for name in list_methods():
        agree = True
        for seed in range(3):
            seen = everything(seed=seed)
            seen.features[7], seen.features[20:23] = seen.features[3], 0.0
            whole = get_method(name, 59).reduce(seen).order
            for k in (1, 2, 5, 11, 30, 58):
                agree = agree and whole is not None
                found = get_method(name, k).reduce(seen)
                agree = agree and found.order is not None and found.order.equal(whole[:k])
        if agree:
            really.add(name)
    assert {name for name in list_methods() if method_class(name).nested} <= really
    assert really - {"strong-rrqr"} == {n for n in really if method_class(n).nested}


@choosing
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype(name, dtype):
    found = get_method(name, 5).reduce(everything(dtype=dtype))
    assert found.indices.dtype == torch.int64 and len(found.indices) == 5
    assert (found.features is not None) == method_class(name).merges
    if found.features is not None:
        assert found.features.dtype == dtype and found.features.isfinite().all()


@every
def test_device(name):
    found = get_method(name, 5).reduce(everything())
    assert found.indices.device.type == "cpu"


@choosing
def test_nan_is_refused(name):
    seen = everything()
    seen.features[7, 3] = float("nan")
    for keep in (1, 9, 60):
        with pytest.raises(ValueError, match="NaN or infinity, first in row 7"):
            get_method(name, keep).reduce(seen)


@pytest.mark.parametrize("name", sorted(set(list_methods()) - BY_PLACE))
@pytest.mark.parametrize("seed", range(3))
def test_permutation(name, seed):
    seen = everything(seed=seed)
    places = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    moved = VisualTokens(
        seen.features[places],
        seen.grid,
        query=dataclasses.replace(seen.query, patches=seen.query.patches[places]),
        encoder_attention=tuple(part[:, places] for part in seen.encoder_attention),
        encoder_keys=seen.encoder_keys[places],
        projector=dataclasses.replace(seen.projector, states=seen.projector.states[places]),
        first_layer=seen.first_layer,
    )
    method = get_method(name, 9)
    first, second = method.reduce(seen), method.reduce(moved)
    assert places[second.indices].sort().values.equal(first.indices)
    if first.features is not None:
        ranked = places[second.indices].argsort()
        torch.testing.assert_close(second.features[ranked], first.features)


@every
def test_arguments_are_not_changed_and_runs_agree(name):
    seen = everything()
    before = seen.features.clone()
    method = get_method(name, 9)
    first, second = method.reduce(seen), method.reduce(seen)
    assert torch.equal(seen.features, before)
    assert first.indices.equal(second.indices)


@pytest.mark.parametrize("name", sorted(set(list_methods()) - NO_BUDGET - {"downsample"}))
def test_separators_are_never_kept(name):
    candidates = torch.ones(60, dtype=torch.bool)
    candidates[9::10] = False
    seen = everything(candidates=candidates)
    for keep, wanted in ((1, 1), (20, 20), (1.0, 54), (0.5, 27), (60, 54)):
        found = get_method(name, keep).reduce(seen)
        check_reduction(found, seen, name)
        assert len(found.indices) == wanted


@choosing
def test_without_grid_or_question(name):
    bare = VisualTokens(everything().features)
    must = method_class(name).needs & {
        "encoder_attention", "encoder", "encoder_keys", "first_layer",
    }  # fmt: skip
    if must or name in ("trim", "zoo-prune"):
        with pytest.raises(ValueError, match=r"missing|there is none"):
            get_method(name, 5).reduce(bare)
    else:
        assert len(get_method(name, 5).reduce(bare).indices) == 5


@choosing
def test_one_token(name):
    assert get_method(name, 5).reduce(everything(1)).indices.tolist() == [0]


@choosing
@pytest.mark.parametrize("n", [2, 3, 5, 7, 31])
def test_odd_sizes(name, n):
    seen = everything(n)
    for keep in range(1, n + 1):
        found = get_method(name, keep).reduce(seen)
        check_reduction(found, seen, name)
        assert len(found.indices) == keep


@choosing
def test_twins_and_zero_rows(name):
    seen = everything(24)
    features = torch.cat(
        [torch.zeros(6, 24), torch.eye(6, 24), torch.eye(6, 24), torch.ones(6, 24)]
    )
    for rows in (features, torch.zeros(24, 24)):
        plain = dataclasses.replace(seen, features=rows.double())
        found = get_method(name, 9).reduce(plain)
        check_reduction(found, plain, name)
        assert len(found.indices) == 9


@every
@pytest.mark.parametrize("keep", BAD_BUDGETS, ids=repr)
def test_bad_budgets(name, keep):
    with pytest.raises(ValueError, match="keep=") as caught:
        get_method(name, keep)
    assert "positive integer" in str(caught.value) and "\n" not in str(caught.value)


@every
def test_bad_settings(name):
    for settings, words in (
        ({"per": "row"}, '"image", "tile", "prompt"'),
        ({"positions": "both"}, '"auto", "compact", "original"'),
    ):
        with pytest.raises(ValueError, match=words):
            get_method(name, 5, **settings)
    with pytest.raises(ValueError, match="no setting colour"):
        get_method(name, 5, colour=1)


@every
def test_a_residual_budget_is_taken_or_refused(name):
    cls = method_class(name)
    if cls.bounds_error:
        found = cls(Residual(0.3)).reduce(everything())
        if name in NO_BUDGET:
            return
        assert found.residual[-1] <= 0.3 < found.residual[-2]
    else:
        with pytest.raises(ValueError, match="Residual"):
            cls(Residual(0.3))


@every
def test_facts(name):
    cls = method_class(name)
    assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen
    assert cls.name == name and cls.paper
    assert (cls.__doc__ or "").strip().endswith(".") or "Parameters" in cls.__doc__
    assert getattr(sparevlm, cls.__name__) is cls
    assert hash(cls(3)) == hash(cls(3)) and cls(3) == cls(3) != cls(4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls(3).keep = 4


def test_names():
    assert list_methods() == sorted(list_methods())
    assert {"spare", "random", "uniform"} <= set(list_methods())
    assert get_method("SPARE", 5) == get_method("spare", 5) == sparevlm.SPARE(keep=5)
    assert get_method("random_tokens", 5, seed=2) == sparevlm.RandomTokens(5, seed=2)
    for wrong in ("spar", "", None, 3):
        with pytest.raises(ValueError, match=r"choose one of .*random, resprune, scope, spare"):
            get_method(wrong, 5)


def test_a_new_method_is_known_at_once():
    from sparevlm.methods.base import _REGISTRY

    try:

        @dataclasses.dataclass(frozen=True)
        class First(PruningMethod):
            """The first tokens."""

            name = "first"

            def reduce(self, tokens):
                return Reduction(tokens.candidate_indices()[: self.budget(tokens)])

        assert get_method("first", 3).reduce(everything()).indices.tolist() == [0, 1, 2]
        with pytest.raises(TypeError, match="both named"):
            type("Other", (PruningMethod,), {"name": "first", "reduce": First.reduce})
        with pytest.raises(TypeError, match="nothing provides"):
            type("Odd", (PruningMethod,), {"name": "odd", "needs": frozenset({"magic"})})
    finally:
        _REGISTRY.pop("first", None)
