"""A method of somebody else, and an engine whose models are lists of features."""

from dataclasses import dataclass
from typing import ClassVar

from sparevlm import PickingMethod, Reduction, VisualTokens


@dataclass(frozen=True)
class EveryOther(PickingMethod):
    """Every other token, then the rest."""

    name: ClassVar[str] = "every-other"
    nested: ClassVar[bool] = True

    def pick(self, tokens, k):
        n = len(tokens)
        return Reduction.picked(tokens.candidate_indices()[[*range(0, n, 2), *range(1, n, 2)][:k]])


class Attached:
    """A method at work on a list of features."""

    def __init__(self, method, model):
        self.method, self.model = method, model
        self.report = [method.reduce(VisualTokens(features)).indices for features in model]

    def detach(self):
        self.report = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.detach()


class Lists:
    """An engine for lists of features [N, D]."""

    def takes(self, model):
        return isinstance(model, list)

    def attach(self, method, model, **options):
        return Attached(method, model)

    def prune_inputs(self, method, model, inputs, **options):
        return {"features": [method.reduce(VisualTokens(x)).indices for x in model]} | options


LISTS = Lists()
