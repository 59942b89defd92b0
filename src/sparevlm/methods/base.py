"""The base class of every pruning method, and the registry it fills."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from sparevlm.encoder import AttentionOf, Layer
from sparevlm.methods.settings import check_choice
from sparevlm.tokens import (
    Budget,
    Reduction,
    Residual,
    VisualTokens,
    budget_tokens,
    check_budget,
)

if TYPE_CHECKING:
    from sparevlm.hf.attached import Attached

Per = Literal["image", "tile", "prompt"]
Positions = Literal["auto", "compact", "original"]

_PROJECTIONS = "vision towers with separate query and key projections (CLIP, SigLIP)"
# What a method may ask for besides features: fields of `VisualTokens` ("encoder": its `encode`),
# and where that is to be had.
NEEDS = {
    "query": "every supported model (the question is compared by CLIP, or by the language model)",
    "encoder_attention": _PROJECTIONS,
    "encoder_keys": _PROJECTIONS,
    "projector": "projectors that turn each patch into one token",
    "encoder": "pictures that are one grid of patches",
}

_REGISTRY: dict[str, type[PruningMethod]] = {}


@dataclass(frozen=True)
class PruningMethod(ABC):
    """A way of choosing which visual tokens the language model gets.

    A subclass is a frozen dataclass in a file of its own under `methods/`; it sets the class
    variables below, implements `reduce`, and is then known by its `name` everywhere.

    Parameters
    ----------
    keep : int, float or Residual
        Tokens kept per image; or the fraction of them in (0, 1]; or the error allowed.
    per : "image", "tile" or "prompt"
        What one budget covers: a picture, or a frame of a video; a tile; or all pictures and frames
        of a prompt, chosen among jointly, so that nothing is kept twice for being shown twice.
    positions : "auto", "compact" or "original"
        Position ids of what is left: renumbered, or those of the full prompt. "auto" takes the one
        measured to be better for the model family ("compact" in `generate` without a cache, which
        cannot keep the others).

    Raises
    ------
    ValueError
        If a value is not allowed; the message says what is.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    merges: ClassVar[bool] = False
    bounds_error: ClassVar[bool] = False  # takes a Residual budget
    nested: ClassVar[bool] = False  # the first j of its order are what it picks for keep=j
    compares: ClassVar[Literal["clip", "llm"]] = "clip"  # the space that "query" comes from
    keys_of: ClassVar[Layer] = None  # the layer that "encoder_keys" comes from
    inside: ClassVar[bool] = False  # works between layers of the language model

    keep: Budget
    _: KW_ONLY
    per: Per = "image"
    positions: Positions = "auto"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = cls.__dict__.get("name")
        if not name:  # an intermediate class
            return
        unknown = cls.needs - set(NEEDS)
        if unknown:
            raise TypeError(f"{cls.__name__}.needs holds {sorted(unknown)}, which nothing provides")
        known = _REGISTRY.get(name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise TypeError(f'{cls.__name__} and {known.__name__} are both named "{name}"')
        _REGISTRY[name] = cls

    def __post_init__(self) -> None:
        check_budget(self.keep)
        check_choice(self, "per", get_args(Per))
        check_choice(self, "positions", get_args(Positions))
        if isinstance(self.keep, Residual) and not self.bounds_error:
            raise ValueError(
                f"{type(self).__name__} knows no residual while it picks, so keep cannot be a "
                "Residual: give a number or a fraction, or use SPARE"
            )

    @property
    def requires(self) -> frozenset[str]:
        """The part of `needs` that these settings use."""
        return self.needs

    @property
    def attention_of(self) -> tuple[AttentionOf, ...]:
        """What "encoder_attention" is made of."""
        return (AttentionOf(),)

    @abstractmethod
    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Choose among the tokens of one picture. Does not change its argument."""

    def budget(self, tokens: VisualTokens) -> int:
        """How many tokens a count or fraction keeps of these; for a `Residual` its upper bound."""
        available = len(tokens.candidate_indices())
        if isinstance(self.keep, Residual):
            maximum = self.keep.maximum
            return available if maximum is None else min(maximum, available)
        return budget_tokens(self.keep, available)

    def attach(self, model: Any, **options: Any) -> Attached:
        """Prune in every `generate` and forward call of a transformers model until detached.

        See `sparevlm.hf.attach` for the options. The returned handle is also a context manager.
        """
        from sparevlm.hf import attach  # hf lies above; only these shortcuts reach up

        return attach(self, model, **options)

    __call__ = attach

    def prune_inputs(self, model: Any, inputs: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Shorten the inputs of one call, without touching the model. See `hf.prune_inputs`."""
        from sparevlm.hf import prune_inputs

        return prune_inputs(self, model, inputs, **options)


def works_with(cls: type[PruningMethod]) -> list[str]:
    """What a method works with, beside a supported model: a few words each; none: with any."""
    return list(dict.fromkeys(words for need, words in NEEDS.items() if need in cls.needs))


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9+]", "", name.lower())


def list_methods(*, inside: bool | None = False) -> list[str]:
    """Names of methods, sorted; each works in `get_method` and on the command line.

    Parameters
    ----------
    inside : bool or None
        Those that work before the language model (False), between its layers (True), or all (None).
    """
    return sorted(name for name, cls in _REGISTRY.items() if inside in (None, cls.inside))


def method_class(name: str) -> type[PruningMethod]:
    """Class of a method by its name or class name; case, "-" and "_" do not matter.

    Raises
    ------
    ValueError
        If there is no such method; the message lists those there are.
    """
    for one, cls in _REGISTRY.items():
        if isinstance(name, str) and _key(name) in (_key(one), _key(cls.__name__)):
            return cls
    raise ValueError(
        f"no method is named {name!r}: choose one of {', '.join(list_methods(inside=None))}"
    )


def get_method(name: str, keep: Budget, **settings: Any) -> PruningMethod:
    """Make a method by name, for example ``get_method("spare", keep=64)``.

    Parameters
    ----------
    name : str
        One of `list_methods`, or a class name.
    keep : int, float or Residual
        The budget.
    settings
        Further fields of the method.

    Raises
    ------
    ValueError
        If there is no such method or setting, or a value is not allowed.
    """
    cls = method_class(name)
    known = [f.name for f in fields(cls)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(
            f"{cls.__name__} has no setting {', '.join(unknown)}: it has {', '.join(known)}"
        )
    return cls(keep, **settings)
