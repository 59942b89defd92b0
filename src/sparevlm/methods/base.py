"""The base class of every pruning method, which fills the registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, get_args

from sparevlm.budgets import Budget, Residual, budget_tokens, check_budget
from sparevlm.encoder import AttentionOf, Layer
from sparevlm.engine import Attachment, engine_of
from sparevlm.methods.settings import check_choice
from sparevlm.methods.told import tell_fields
from sparevlm.tokens import Reduction, VisualTokens

Per = Literal["image", "tile", "prompt"]
Positions = Literal["auto", "compact", "original"]

_PROJECTIONS = "vision towers with separate query and key projections (CLIP, SigLIP)"
_DECODERS = "language models with separate queries and keys (all but Qwen3.5's)"
# What a method may ask for besides features: fields of `VisualTokens` ("encoder": its `encode`),
# and where that is to be had.
NEEDS = {
    "query": "every supported model (the question is compared by CLIP, or by the language model)",
    "encoder_attention": _PROJECTIONS,
    "encoder_keys": _PROJECTIONS,
    "projector": "projectors that turn each patch into one token",
    "encoder": "pictures that are one grid of patches",
    "first_layer": _DECODERS,
    "decoder_attention": _DECODERS,
    "decoder_next_attention": _DECODERS,
    "decoder_embeddings": _DECODERS,
    "decoder_keys": _DECODERS,
    "decoder_states": _DECODERS,
    "decoder_changes": _DECODERS,
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
        Tokens kept per image; or the fraction of them in (0, 1]; or the error allowed, of methods
        whose ``bounds_error`` is True.
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
    keeps: ClassVar[str] = ""  # in a few words, for tables
    needs: ClassVar[frozenset[str]] = frozenset()
    merges: ClassVar[bool] = False
    bounds_error: ClassVar[bool] = False  # takes a Residual budget
    by_place: ClassVar[bool] = False  # where a token lies, or a draw for its place, decides too
    nested: ClassVar[bool] = False  # the first j of its order are what it picks for keep=j
    # The space that "query" comes from; what the user names instead counts, but for "llm only".
    compares: ClassVar[Literal["clip", "llm", "llm only"]] = "clip"
    keys_of: ClassVar[Layer] = None  # the layer that "encoder_keys" comes from
    inside: ClassVar[bool] = False  # works between layers of the language model

    keep: Budget
    _: KW_ONLY
    per: Per = "image"
    positions: Positions = "auto"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        tell_fields(cls)
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

    def reduce_all(self, pictures: Sequence[VisualTokens]) -> list[Reduction]:
        """`reduce` of several pictures of one call: the same, and of some methods faster."""
        return [self.reduce(tokens) for tokens in pictures]

    def reduce_together(self, pictures: Sequence[VisualTokens]) -> list[Reduction]:
        """`reduce_all`, or `reduce` one by one where a class has a `reduce` of its own alone."""
        if defined_first(type(self), "reduce_all", "reduce"):
            return self.reduce_all(pictures)
        return [self.reduce(tokens) for tokens in pictures]

    def budget(self, tokens: VisualTokens) -> int:
        """How many tokens a count or fraction keeps of these; for a `Residual` its upper bound."""
        available = tokens.candidate_count()
        if isinstance(self.keep, Residual):
            maximum = self.keep.maximum
            return available if maximum is None else min(maximum, available)
        return budget_tokens(self.keep, available)

    def attach(self, model: Any, **options: Any) -> Attachment:
        """Prune in every `generate` and forward call of a model until detached.

        See `sparevlm.attach` for the options that transformers models take. The returned handle is
        also a context manager.
        """
        return engine_of(model).attach(self, model, **options)

    __call__ = attach

    def prune_inputs(self, model: Any, inputs: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Shorten the inputs of one call, the model untouched. See `sparevlm.prune_inputs`."""
        return engine_of(model).prune_inputs(self, model, inputs, **options)


def name_of(method: Any) -> str:
    """What a method is called; its class where that has no name of its own."""
    return getattr(method, "name", type(method).__name__)


def defined_first(cls: type, name: str, other: str) -> bool:
    """Whether a class or the nearest above it that defines either defines `name`."""
    nearest = next(base for base in cls.__mro__ if name in vars(base) or other in vars(base))
    return name in vars(nearest)
