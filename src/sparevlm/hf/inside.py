"""Dropping visual tokens between layers of the language model, on stock transformers.

Hooks before every decoder layer shorten what it gets: hidden states, mask, rotary embeddings. Its
part of the cache is then really shorter; which columns it holds is remembered on the cache, so that
masks of later calls fit each layer's own length.
"""

from __future__ import annotations

import inspect
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparevlm.hf import stock
from sparevlm.hf.attached import Attached
from sparevlm.hf.layer_scores import KeyTap, LayerProbe
from sparevlm.hf.media import token_types
from sparevlm.methods.in_decoder import LayerTokens, averaged, check_chosen
from sparevlm.report import ImageReport, Report

if TYPE_CHECKING:
    from sparevlm.hf.before import Handle
    from sparevlm.methods.base import PruningMethod
    from sparevlm.methods.in_decoder import DecoderMethod, Schedule
    from sparevlm.methods.staged import Staged

_HELD = "_sparevlm_held"  # on the cache: {layer: columns of the whole prompt [B, P], -1: padding}
_BLOCK = 128  # queries whose attention is computed at a time
_TOTAL = "_sparevlm_total"  # on the cache: columns of the whole prompt so far


@dataclass(eq=False)
class _Picture:
    """A run of placeholders in a prompt, and what is left of it."""

    row: int
    columns: Tensor  # of this call, as the user gave it
    schedule: Schedule
    left: Tensor  # indices into `columns`
    kept: dict[int, Tensor] = field(default_factory=dict)
    seconds: float = 0.0  # of choosing


@dataclass(eq=False)
class _Call:
    """One forward call of the model.

    Attributes
    ----------
    words : Tensor [B, L], bool
        Columns that are no placeholders and no padding.
    real : Tensor [B, L], bool
        Columns that are no padding.
    earlier : Tensor [B, P] or None
        And of the columns before this call, as the user counts them.
    pictures : list
    each : int
        Rows that stand for one prompt: beams follow each other.
    past : int
        Columns that the cache's first layer held before.
    left : Tensor [B, L'] or None
        Columns of this call that the present layer gets, -1 for padding; None: all.
    """

    words: Tensor
    real: Tensor
    earlier: Tensor | None
    pictures: list[_Picture]
    each: int
    past: int = 0
    left: Tensor | None = None


def check_decoder(method: DecoderMethod, model: Any) -> None:
    """Raise ValueError unless a decoder method can work in this model's language model."""
    decoder = stock.decoder_of(model)
    layers, name = stock.layers_of(decoder), type(decoder).__name__
    if not layers or not all(map(stock.reads_attention, stock.attentions(decoder))):
        raise stock.unknown(
            f"{name} has no layers with separate queries and keys, which {type(method).__name__} "
            "reads"
        )
    if stock.last_norm(decoder) is None:
        raise stock.unknown(f"{name} has no last norm of the name that is known")
    for layer in layers:
        stock.cache_name(type(layer).forward)  # known, or an error
    method.check_layers(len(layers))
    deep = stock.deepstack_layers(model)
    first = min(method.stages(len(layers)))
    if first < deep:
        raise ValueError(
            f"the first {deep} layers of {name} add features to every visual "
            f"token, so that none can be dropped before layer {deep}: {type(method).__name__} "
            f"drops at layer {first}"
        )


class Inside(Attached):
    """A decoder method attached to a model, behind one that works before the decoder."""

    def __init__(
        self, method: PruningMethod | Staged, inside: DecoderMethod, before: Handle
    ) -> None:
        self._before = before
        super().__init__(method, before.model)
        self._inside, self._family = inside, before.family
        self._decoder = stock.decoder_of(self._model)
        layers = stock.layers_of(self._decoder)
        self._names = list(inspect.signature(self._model.forward).parameters)
        self._flat = stock.is_flash(self._decoder)
        self._stages = sorted(inside.stages(len(layers)))
        self._first = self._stages[0]
        self._local = threading.local()
        attentions = stock.attentions(self._decoder)
        self._probes = {at: LayerProbe(attentions[at - 1]) for at in self._stages}
        self._hooks = [
            # After the hook of `before`, which shortens what this one sees.
            self._model.register_forward_pre_hook(self._before_model, with_kwargs=True),
            self._model.register_forward_hook(self._after_model, always_call=True),
            self._decoder.register_forward_hook(self._after_decoder),
        ]
        for at, layer in enumerate(layers):
            self._hooks.append(
                layer.register_forward_pre_hook(self._before_layer(at), with_kwargs=True)
            )

    def _take_off(self) -> None:
        super()._take_off()
        self._before.detach()
        for probe in self._probes.values():
            probe.remove()

    # -- the model

    def _before_model(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = dict(zip(self._names, args, strict=False)) | kwargs
        self._local.call = None
        ids: Tensor | None = named.get("input_ids")
        cache = stock.cache_of(named)
        if ids is None:
            if getattr(cache, _HELD, None) and stock.cached_tokens(cache):
                raise ValueError("the cache holds a pruned prompt: go on from it with input_ids")
            return
        mask = named.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            raise ValueError("attention_mask must be [B, L]: pass the processor's mask")
        kinds = token_types(self._family, self._model, ids)
        rows, length = ids.shape
        real = torch.ones_like(ids, dtype=torch.bool)
        earlier = None
        if mask is not None:
            real = mask[:, mask.shape[1] - length :] != 0
            earlier = mask[:, : mask.shape[1] - length] != 0
        pictures = []
        each, counts = self._counts(kinds)
        count = len(stock.layers_of(self._decoder))
        for row in range(rows):
            for run in _pictures(kinds[row], counts.get(row)):
                schedule = self._inside.schedule(count, len(run))
                everything = torch.arange(len(run), device=ids.device)
                pictures.append(_Picture(row, run, schedule, everything))
        self._local.call = _Call((kinds == 0) & real, real, earlier, pictures, each)
        if getattr(cache, _HELD, None):
            self._local.whole = cache
            stock.tell_one_length(cache)

    def _counts(self, kinds: Tensor) -> tuple[int, dict[int, list[int]]]:
        """Rows that stand for one prompt, and tokens of each picture in each row of the call.

        As the first method reported them; nothing where its report is of another call, since
        features that were given by hand pass it by.
        """
        report, rows = self._before.report, len(kinds)
        each = max(1, rows // self._before.prompts)
        counts: dict[int, list[int]] = {}
        for found in report:
            for row in range(found.row * each, (found.row + 1) * each):
                counts.setdefault(row, []).append(found.after)
        there = (kinds != 0).sum(1).tolist()
        if [sum(counts.get(row, [])) for row in range(rows)] != there:
            return 1, {}
        return each, counts

    def _after_model(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        call = getattr(self._local, "call", None)
        stock.tell_true_lengths(getattr(self._local, "whole", None))
        self._local.call = self._local.whole = None
        for probe in self._probes.values():
            probe.forget()
        if call is not None and call.pictures and output is not None:
            count = len(stock.layers_of(self._decoder))
            self.report = Report(
                _reported(picture, count, picture.row // call.each)
                for picture in call.pictures
                if picture.row % call.each == 0
            )
            whole = self._before.report
            if [one.before for one in self.report] == [found.after for found in whole]:
                for mine, found in zip(self.report, whole, strict=True):
                    mine.kind, mine.shares = found.kind, _shares(mine.indices, found.shares)
                    if found.after == found.before:  # all tokens of a grid
                        mine.grid, mine.pixels = found.grid, found.pixels

    # -- the decoder

    def _before_layer(self, at: int) -> Any:
        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            call = getattr(self._local, "call", None)
            if call is None:
                return None
            cache = stock.cache_of(kwargs)
            hidden = stock.layer_input(args, kwargs)
            if at == 0:
                self._begin(call, cache, hidden)
                if call.pictures and stock.rotary(kwargs) is None:
                    raise stock.unknown(
                        f"{type(self._decoder).__name__} rotates queries and keys in a way "
                        "that cannot be shortened"
                    )
            held = getattr(cache, _HELD, {}).get(at) if call.past else None
            if at in self._probes and call.pictures:
                hidden = self._drop(call, at, hidden)
                self._probes[at].forget()
            changed = self._shortened(call, at, hidden, held, kwargs)
            if cache is not None and at >= self._first and (call.pictures or held is not None):
                _hold(cache, at, held, call)
            probe = self._probes.get(at + 1)
            if probe is not None and call.pictures:
                probe.embeddings = stock.rotary(changed)
                mask = changed.get("attention_mask")
                probe.mask = mask if isinstance(mask, Tensor) and mask.ndim == 4 else None
                if call.past and cache is not None:
                    probe.past = stock.cached_keys(cache, at)
                    probe.past_seen = _seen(call, held)
                probe.tap = KeyTap(cache)
                changed = stock.with_cache(type(module).forward, changed, probe.tap)
            return stock.with_layer_input(args, changed, hidden)

        return before

    def _begin(self, call: _Call, cache: Any, hidden: Tensor) -> None:
        """At the first layer: what the cache holds, and whether it is of a kind that can shrink."""
        call.past = stock.cached_tokens(cache)
        if cache is not None and (call.past == 0 or not hasattr(cache, _HELD)):
            setattr(cache, _HELD, {})
            setattr(cache, _TOTAL, call.past)
        if cache is not None and getattr(cache, _TOTAL) != call.past:
            raise ValueError(
                "the cache was cropped, or fed by the model without pruning, which leaves layers "
                "apart: go on with the cache as it was (assisted decoding is not possible)"
            )
        if cache is not None:
            setattr(cache, _TOTAL, call.past + hidden.shape[1])
        if stock.has_fixed_length(cache):
            raise ValueError("a static cache has one length for all layers: use the default cache")
        window = stock.window_of(self._model)
        total = call.past + hidden.shape[1]
        if window and total > window:
            raise ValueError(
                f"prompt and answer, {total} tokens so far, are longer than the sliding window of "
                f"{window} that some layers have: shorten them, or use a method that prunes before "
                "the decoder"
            )

    def _drop(self, call: _Call, at: int, hidden: Tensor) -> Tensor:
        """Choose at a stage; hidden states of what stays."""
        rows, length = call.words.shape
        before = call.left
        merged: list[tuple[_Picture, Tensor]] = []
        received: dict[int, Tensor] = {}
        device = hidden.device
        keep = torch.ones(rows, length, dtype=torch.bool, device=device)
        if before is not None:
            keep = _spread(before, torch.ones_like(before, dtype=torch.bool), length)
        for picture in call.pictures:
            k = picture.schedule[at]
            if k < len(picture.left):
                start = time.perf_counter()
                tokens = self._tokens(call, at, hidden, picture, received)
                found = self._inside.choose(tokens, k)
                picture.seconds += time.perf_counter() - start
                check_chosen(found, tokens, k, type(self._inside).__name__)
                chosen = found.indices
                keep[picture.row, picture.columns[picture.left]] = False
                picture.left = picture.left[chosen]
                keep[picture.row, picture.columns[picture.left]] = True
                if found.features is not None:
                    merged.append((picture, found.features))
            picture.kept[at] = picture.left
        if before is None and bool(keep.all()):
            return hidden
        keep &= call.real.to(device)  # padding would hold places that others have given up
        call.left = _columns(keep)
        inside = call.left.clamp(min=0)
        if before is not None:  # where each lies in the shorter hidden states
            there = torch.arange(before.shape[1], device=device).expand_as(before)
            inside = _spread(before, there, length).gather(1, inside)
        shorter = hidden.gather(1, inside[..., None].expand(-1, -1, hidden.shape[-1]))
        for picture, features in merged:
            at_row = torch.isin(call.left[picture.row], picture.columns[picture.left])
            shorter[picture.row, at_row] = features.to(shorter.dtype)
        return shorter

    def _tokens(
        self,
        call: _Call,
        at: int,
        hidden: Tensor,
        picture: _Picture,
        received: dict[int, Tensor],
    ) -> LayerTokens:
        """A picture as methods see it; what all columns of a row got is kept in `received`."""
        row, probe = picture.row, self._probes[at]
        columns = torch.arange(call.words.shape[1], device=hidden.device)
        if call.left is not None:
            columns = call.left[row]
        there = torch.isin(columns, picture.columns[picture.left]).nonzero()[:, 0]
        words = ((columns >= 0) & call.words[row, columns.clamp(min=0)]).nonzero()[:, 0]
        keys = probe.keys(row).transpose(0, 1).flatten(1)
        real = (columns >= 0) & call.real[row, columns.clamp(min=0)]
        earlier = real[:0] if probe.past_seen is None else probe.past_seen[row]

        def paid(asking: Tensor) -> Tensor:
            causal = torch.arange(len(columns), device=hidden.device) <= asking[:, None]
            seen = torch.cat((earlier.expand(len(asking), -1), causal & real), dim=1)
            if probe.mask is not None:  # some models let pictures, or prompts, see ahead
                seen = _visible(probe.mask[min(row, len(probe.mask) - 1), 0, asking])
            return probe.attention(row, asking, seen)[:, len(earlier) :]

        def from_all() -> Tensor:
            if row not in received:
                asking = real.nonzero()[:, 0]
                total = torch.zeros(len(columns), device=hidden.device)
                own = torch.arange(len(columns), device=hidden.device)
                for some in asking.split(_BLOCK):  # the whole matrix never exists
                    total += paid(some).masked_fill(some[:, None] == own, 0).sum(0)
                received[row] = total / max(len(asking) - 1, 1)
            return received[row][there]

        return LayerTokens(
            layer=at, features=hidden[row, there], indices=picture.left, text=hidden[row, words],
            keys=keys[there], text_keys=keys[words], received=from_all,
            attention=lambda which: paid(words[which])[:, there],
            norm=stock.last_norm(self._decoder),
        )  # fmt: skip

    def _shortened(
        self, call: _Call, at: int, hidden: Tensor, held: Tensor | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """The layer's arguments for the columns it gets."""
        left = call.left
        if left is None and held is None:
            return kwargs
        changed = dict(kwargs)
        rows, queries = hidden.shape[:2]
        device = hidden.device
        if left is not None:
            inside = left.clamp(min=0)
            embeddings = stock.rotary(kwargs) or ()
            changed = stock.with_rotary(changed, tuple(_taken(p, inside) for p in embeddings))
            # FlashAttention reads gaps in positions as packed sequences.
            if kwargs.get("position_ids") is not None:
                steps = torch.arange(queries, device=device)
                changed["position_ids"] = (call.past + steps).expand(rows, -1)
        columns = torch.arange(queries, device=device).expand(rows, -1) if left is None else left
        past = torch.arange(call.past, device=device).expand(rows, -1) if held is None else held
        all_columns = torch.cat((past, torch.where(columns < 0, -1, columns + call.past)), dim=1)
        changed["attention_mask"] = _mask(
            kwargs.get("attention_mask"), left, all_columns, queries, hidden.dtype, self._flat
        )
        return changed

    def _after_decoder(self, module: Any, args: tuple[Any, ...], output: Any) -> Any:
        """Give the last hidden states their full length again: zeros where tokens were dropped."""
        call = getattr(self._local, "call", None)
        if call is None or call.left is None:
            return None
        hidden = stock.last_hidden(output)
        stock.set_last_hidden(output, _spread(call.left, hidden, call.words.shape[1]))
        return output


def _pictures(kinds: Tensor, counts: list[int] | None) -> list[Tensor]:
    """Columns of each picture in a row; without counts, each run of placeholders is one."""
    at = (kinds != 0).nonzero()[:, 0]
    if len(at) == 0:
        return []
    if counts is not None:
        return list(at.split(counts))
    breaks = ((at[1:] - at[:-1]) > 1).nonzero()[:, 0] + 1
    return [run for run in torch.tensor_split(at, breaks.tolist()) if len(run)]


def _columns(keep: Tensor) -> Tensor:
    """Kept columns [B, L'] of a mask [B, L], ascending; -1 in front of shorter rows."""
    counts = keep.sum(1)
    longest = int(counts.max())
    order = torch.sort(keep.long(), dim=1, stable=True).indices  # kept ones last, ascending
    found = order[:, keep.shape[1] - longest :]
    step = torch.arange(longest, device=keep.device)
    return torch.where(step >= (longest - counts)[:, None], found, -1)


def _spread(columns: Tensor, values: Tensor, length: int) -> Tensor:
    """Values [B, L', ..] at their columns [B, L'] of [B, length, ..]; zero elsewhere."""
    rest = values.shape[2:]
    found = values.new_zeros(len(columns), length + 1, *rest)  # the last takes the padding
    at = torch.where(columns < 0, length, columns)
    at = at[(...,) + (None,) * len(rest)].expand_as(values)
    return found.scatter_(1, at, values)[:, :length]


def _taken(part: Tensor, columns: Tensor) -> Tensor:
    """Rotary embeddings [.., B or 1, L, C] of columns [B, L']."""
    shape = (*part.shape[:-3], len(columns), *part.shape[-2:])
    at = columns[..., None].expand(*part.shape[:-3], -1, -1, part.shape[-1])
    return part.expand(shape).gather(-2, at)


def _mask(
    mask: Any, left: Tensor | None, columns: Tensor, queries: int, dtype: torch.dtype, flat: bool
) -> Any:
    """The mask of a layer that holds and gets fewer columns.

    mask [B or 1, 1, Q, K] (bool, or added to the logits), [B, K] (FlashAttention's), or None:
    causal without padding. columns [B, K'] are kept columns of the whole prompt, -1 for padding.
    flat: the attention takes masks [B, K] only.
    """
    padded = columns < 0
    if mask is None and not bool(padded.any()):
        return None
    inside = columns.clamp(min=0)
    rows = len(columns)
    if mask is None and flat:
        return (~padded).long()
    if mask is None:
        step = torch.arange(columns.shape[1], device=columns.device)
        begin = columns.shape[1] - queries
        causal = step <= begin + torch.arange(queries, device=columns.device)[:, None]
        return (causal & ~padded[:, None])[:, None]
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        raise ValueError(
            "this attention implementation's masks cannot be shortened: use sdpa, eager or "
            "flash_attention_2"
        )
    if mask.ndim == 2:
        return mask.gather(1, inside).masked_fill(padded, 0)
    found = mask.expand(rows, *mask.shape[1:])
    if left is not None:
        at = left.clamp(min=0)[:, None, :, None].expand(-1, found.shape[1], -1, found.shape[-1])
        found = found.gather(2, at)
    found = found.gather(3, inside[:, None, None].expand(-1, *found.shape[1:3], -1))
    hide = padded[:, None, None].expand_as(found)
    if found.dtype == torch.bool:
        return found & ~hide
    return found.masked_fill(hide, torch.finfo(dtype).min)


def _hold(cache: Any, at: int, held: Tensor | None, call: _Call) -> None:
    """Remember which columns a layer's part of the cache has after this call."""
    rows, length = call.words.shape
    left = call.left
    if left is None:
        left = torch.arange(length, device=call.words.device).expand(rows, -1)
    new = torch.where(left < 0, -1, left + call.past)
    if held is None:
        held = torch.arange(call.past, device=new.device).expand(rows, -1)
    getattr(cache, _HELD)[at] = torch.cat((held, new), dim=1)


def _seen(call: _Call, held: Tensor | None) -> Tensor:
    """Which of the columns that a layer had cached before this call are no padding: [B, P]."""
    rows, device = len(call.words), call.words.device
    if held is None:
        held = torch.arange(call.past, device=device).expand(rows, -1)
    if call.earlier is None:
        return held >= 0
    return (held >= 0) & call.earlier.gather(1, held.clamp(min=0))


def _visible(mask: Tensor) -> Tensor:
    """Where a mask, bool or added to logits, lets look."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _shares(kept: Tensor, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """How many of the kept tokens lie in each of several pictures, one behind the other."""
    ends = torch.tensor(sizes, device=kept.device).cumsum(0)
    counts = torch.searchsorted(kept, ends).tolist()
    return tuple(b - a for a, b in zip([0, *counts], counts, strict=False))


def _reported(picture: _Picture, layers: int, row: int) -> ImageReport:
    n = len(picture.columns)
    counts = {at: len(kept) for at, kept in picture.kept.items()}
    return ImageReport(
        before=n, after=len(picture.left), indices=picture.left,
        milliseconds=1e3 * picture.seconds, row=row, stages=picture.kept,
        average=averaged(counts, layers, n),
    )  # fmt: skip
