"""Pruning switched on for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparevlm.guide import Guide
from sparevlm.hf.attached import Attached
from sparevlm.hf.before import Handle
from sparevlm.hf.decoder import Inside, check_decoder
from sparevlm.hf.pruning import Pruning
from sparevlm.hf.wrapped import check_adapters, unwrapped
from sparevlm.methods.in_decoder import DecoderMethod
from sparevlm.methods.staged import Staged
from sparevlm.methods.uniform_grid import UniformGrid

if TYPE_CHECKING:
    from sparevlm.methods.base import PruningMethod


def attach(
    method: PruningMethod | Staged,
    model: Any,
    *,
    relevance: str = "auto",
    clip: Any = None,
    tokenizer: Any = None,
    question: str | None = None,
) -> Attached:
    """Prune the visual tokens of every `generate` and forward call of a model until detached.

    Parameters
    ----------
    method : PruningMethod or Staged
        What to keep.
    model
        A supported transformers model, also inside a peft model or DistributedDataParallel: then
        what is pruned, and `Attached.model`, is the model inside.
    relevance : "auto", "clip", "llm" or "none"
        What methods that look at the question compare it with: CLIP's text tower ("auto": where it
        is at hand without a download), or the language model's embeddings.
    clip : CLIPModel, SiglipModel, TowerScorer, str or None
        What the vision tower was taken from, or its name; None: found by the tower.
    tokenizer
        The language model's tokenizer or processor; None: loaded from where the model came from.
    question : str or None
        The question to guide by; None: read off each prompt.

    Returns
    -------
    Attached
        A `Handle`, or an `Inside` for methods that work in the decoder; also a context manager,
        which detaches.

    Raises
    ------
    ValueError
        If the model is not supported or pruned already, or guidance cannot be had.
    """
    guide = Guide(relevance, clip, tokenizer, question)
    model = unwrapped(model)
    first: PruningMethod
    inside: DecoderMethod | None = None
    if isinstance(method, Staged):
        first, inside = method.first, method.then
    elif isinstance(method, DecoderMethod):
        first, inside = UniformGrid(keep=1.0, per=method.per), method
    else:
        first = method
    pruning = Pruning.of(first, model, guide, inside=inside is not None)
    check_adapters(model)
    if inside is None:
        return Handle(pruning)
    check_decoder(inside, model, pruning.family)
    return Inside(method, inside, Handle(pruning, part=True))
