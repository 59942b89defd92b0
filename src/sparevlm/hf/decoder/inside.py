"""The hooks of a method that works inside the decoder.

Before every layer they shorten what it gets: hidden states, mask, rotary embeddings. Its part of
the cache is then really shorter; which columns it holds is remembered on the cache, so that masks
of later calls fit each layer's own length. What a running call has is in its thread's `Call`.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sparevlm.hf import stock
from sparevlm.hf.attached import Attached
from sparevlm.hf.decoder.changes import ChangeProbe, Recorded
from sparevlm.hf.decoder.coming import Coming
from sparevlm.hf.decoder.held import (
    Call,
    Picture,
    begin,
    held_by,
    hold,
    is_shorter,
    seen_before,
)
from sparevlm.hf.decoder.probe import LayerProbe, Probe, Taken
from sparevlm.hf.decoder.shorter import (
    filled,
    gathered,
    kept_columns,
    rotary_of,
    shorter_mask,
    spread,
    visible,
)
from sparevlm.hf.media import token_types
from sparevlm.hf.turns import check_rows, mark_rows
from sparevlm.methods.base import name_of
from sparevlm.methods.in_decoder import Change, LayerTokens, averaged, check_chosen
from sparevlm.report import ImageReport, Report, Timer

if TYPE_CHECKING:
    from sparevlm.families import Family
    from sparevlm.hf.before import Handle
    from sparevlm.methods.base import PruningMethod
    from sparevlm.methods.in_decoder import DecoderMethod
    from sparevlm.methods.staged import Staged

_BLOCK = 128  # queries whose attention is computed at a time


def check_decoder(method: DecoderMethod, model: Any, family: Family) -> None:
    """Raise ValueError unless a decoder method can work in this model's language model."""
    decoder = stock.decoder_of(model)
    layers, name = stock.layers_of(decoder), type(decoder).__name__
    if family.inside:
        raise ValueError(
            f"{type(method).__name__} cannot work inside {name}: {family.inside}; use a "
            "method that prunes before the decoder"
        )
    if not layers or not all(map(stock.reads_attention, stock.attentions(decoder))):
        raise stock.unknown(
            f"{name} has no layers with separate queries and keys, which {type(method).__name__} "
            "reads"
        )
    if not all(_changing(method, decoder).values()):
        raise stock.unknown(
            f"{name} has layers without a feed-forward part of the name that is known, which "
            f"{type(method).__name__} reads"
        )
    if stock.last_norm(decoder) is None:
        raise stock.unknown(f"{name} has no last norm of the name that is known")
    for layer in layers:
        stock.cache_name(type(layer).forward)  # known, or an error
    method.check_layers(len(layers))
    if "decoder_next_attention" in method.needs:
        for at in method.stages(len(layers)):
            stock.input_norm(layers[at])
    deep = stock.deepstack_layers(model)
    first = min(method.stages(len(layers)))
    if first < deep:
        raise ValueError(
            f"the first {deep} layers of {name} add features to every visual "
            f"token, so that none can be dropped before layer {deep}: {type(method).__name__} "
            f"drops at layer {first}"
        )


def _changing(method: DecoderMethod, decoder: Any) -> dict[int, Any]:
    """Layers whose changes a method reads, and their feed-forward parts, or None."""
    if "decoder_changes" not in method.requires:
        return {}
    parts = stock.feed_forwards(decoder)
    return {at: parts[at] for at in method.watched(len(parts))}


class Inside(Attached):
    """A decoder method attached to a model, behind one that works before the decoder."""

    def __init__(
        self, method: PruningMethod | Staged, inside: DecoderMethod, before: Handle
    ) -> None:
        self._before = before
        super().__init__(method, before.model)
        before.watch(self._own)
        self._inside, self._family = inside, before.family
        self._decoder = stock.decoder_of(self._model)
        layers = stock.layers_of(self._decoder)
        self._names = list(inspect.signature(self._model.forward).parameters)
        self._flat = stock.is_flash(self._decoder)
        self._stages = sorted(inside.stages(len(layers)))
        self._first = self._stages[0]
        self._local = threading.local()
        self._replayed = WeakTensorKeyDictionary()  # a call's rotary embeddings: the call
        attentions = stock.attentions(self._decoder)
        self._probes = {
            at: LayerProbe(attentions[at - 1], lambda at=at: self._taken(at))  # type: ignore[misc]
            for at in self._stages
        }
        self._next = {at: Probe(attentions[at]) for at in self._stages}
        self._changes = [
            ChangeProbe(at, attentions[at], part, self._changed, self._prompting)
            for at, part in _changing(inside, self._decoder).items()
        ]
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
        for change in self._changes:
            change.remove()

    @property
    def columns(self) -> Tensor | None:
        """See `Attached`: what comes out of the decoder has all columns that went in."""
        return self._before.columns

    @property
    def attention_mask(self) -> Tensor | None:
        """See `Attached`."""
        return self._before.attention_mask

    @property
    def prompt_length(self) -> int:
        """See `Attached`."""
        return self._before.prompt_length

    @property
    def _call(self) -> Call | None:
        """The present thread's running call."""
        return getattr(self._local, "call", None)

    def _taken(self, at: int) -> Taken | None:
        call = self._call
        return None if call is None else call.taken.get(at)

    def _prompting(self) -> bool:
        call = self._call
        return call is not None and bool(call.pictures)

    def _changed(self, recorded: Recorded) -> None:
        call = self._call
        assert call is not None  # or it is not recorded
        recorded.left = call.left
        call.changes.append(recorded)

    # -- the model

    def _before_model(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = dict(zip(self._names, args, strict=False)) | kwargs
        self._local.call = None
        ids: Tensor | None = named.get("input_ids")
        cache = stock.cache_of(named)
        if ids is None:
            if is_shorter(cache) and stock.cached_tokens(cache):
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
        each, counts, reports = self._counts(kinds)
        count = len(stock.layers_of(self._decoder))
        for row in range(rows):
            for run in _pictures(kinds[row], counts.get(row)):
                schedule = self._inside.schedule(count, len(run))
                everything = torch.arange(len(run), device=ids.device)
                pictures.append(Picture(row, run, schedule, everything))
        call = Call((kinds == 0) & real, real, earlier, pictures, reports, each)
        self._local.call = call
        if is_shorter(cache):
            call.whole = cache
            stock.tell_one_length(cache)

    def _counts(self, kinds: Tensor) -> tuple[int, dict[int, list[int]], list[ImageReport]]:
        """Rows that stand for one prompt, and tokens of each picture in each row of the call.

        As the method before reported them in this call; nothing where features were given by hand,
        which pass it by.
        """
        reports, prompts = self._before.last
        rows = len(kinds)
        each = max(1, rows // prompts)
        counts: dict[int, list[int]] = {}
        for report in reports:
            for row in range(report.row * each, (report.row + 1) * each):
                counts.setdefault(row, []).append(report.after)
        here = (kinds != 0).sum(1).tolist()
        if [sum(counts.get(row, [])) for row in range(rows)] != here:
            return 1, {}, []
        return each, counts, reports

    def _after_model(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        call, self._local.call = self._call, None
        if call is None:
            return
        stock.tell_true_lengths(call.whole)
        if call.held_in is not None and not call.past and is_shorter(call.held_in):
            mark_rows(call.held_in, -1)
        if call.pictures and output is not None:
            self.report = self._reports(call)

    def _reports(self, call: Call) -> Report:
        layers = len(stock.layers_of(self._decoder))
        report = Report(
            _reported(picture, layers, picture.row // call.each, name_of(self.method))
            for picture in call.pictures
            if picture.row % call.each == 0
        )
        if [image.before for image in report] == [first.after for first in call.before]:
            for mine, first in zip(report, call.before, strict=True):
                mine.kind, mine.shares = first.kind, _shares(mine.indices, first.shares)
                if first.after == first.before:  # all tokens of a grid
                    mine.grid, mine.pixels = first.grid, first.pixels
        return report

    # -- the decoder

    def _before_layer(self, at: int) -> Any:
        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            call = self._call
            if call is None:
                return self._again(at, args, kwargs)
            cache = stock.cache_of(kwargs)
            hidden = stock.layer_input(args, kwargs)
            if at == 0:
                self._begin(call, cache, hidden)
                if call.pictures and "decoder_embeddings" in self._inside.needs:
                    call.embedded = hidden.detach()
                if call.pictures and stock.rotary(kwargs) is None:
                    raise stock.unknown(
                        f"{type(self._decoder).__name__} rotates queries and keys in a way "
                        "that cannot be shortened"
                    )
            held = held_by(cache, at) if call.past else None
            call.again = bool(call.pictures) and stock.will_run_again(module)
            embeddings = stock.rotary(kwargs)
            if call.again and embeddings is not None:
                self._replayed[embeddings[0]] = call
            if at in self._probes and call.pictures:
                coming = functools.partial(self._coming, call, at, hidden, held, kwargs)
                hidden = self._drop(call, at, hidden, functools.lru_cache(coming))
                del call.taken[at]
                if at == self._stages[-1]:
                    call.embedded = None
            changed = self._shortened(call, at, hidden, held, kwargs)
            if cache is not None and at >= self._first and (call.pictures or held is not None):
                hold(cache, at, held, call)
            if at + 1 in self._probes and call.pictures:
                call.taken[at + 1] = self._take(call, at, held, changed)
            call.lefts.append(call.left)
            return stock.with_layer_input(args, changed, hidden)

        return before

    def _again(self, at: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Shorten what a layer gets that gradient checkpointing runs again, as it was shortened."""
        embeddings = stock.rotary(kwargs)
        call = None if embeddings is None else self._replayed.get(embeddings[0])
        if call is None:
            return None
        hidden, left = stock.layer_input(args, kwargs), call.lefts[at]
        before = call.lefts[at - 1] if at else None
        if left is not None and left is not before:
            hidden = gathered(hidden, before, left, call.words.shape[1])
        changed = self._shortened(replace(call, left=left), at, hidden, None, kwargs)
        return stock.with_layer_input(args, changed, hidden)

    def _take(self, call: Call, at: int, held: Tensor | None, arguments: dict[str, Any]) -> Taken:
        """What is read off layer `at`, which gets `arguments`, for the stage behind it."""
        return Taken(self._probes[at + 1], **_sight(call, at, held, arguments))

    def _coming(
        self, call: Call, at: int, hidden: Tensor, held: Tensor | None, kwargs: dict[str, Any]
    ) -> Coming:
        """What layer `at` would attend to if nothing were dropped before it."""
        arguments = self._shortened(call, at, hidden, held, kwargs)
        layer, sight = stock.layers_of(self._decoder)[at], _sight(call, at, held, arguments)
        return Coming(self._next[at], layer=layer, hidden=hidden.detach(), **sight)

    def _begin(self, call: Call, cache: Any, hidden: Tensor) -> None:
        """At the first layer: what the cache holds, and whether it is of a kind that can shrink."""
        call.past, call.held_in = stock.cached_tokens(cache), cache
        if call.past and is_shorter(cache):
            check_rows(cache)
        if cache is not None:
            begin(cache, call.past, hidden.shape[1])
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

    def _drop(self, call: Call, at: int, hidden: Tensor, coming: Callable[[], Coming]) -> Tensor:
        """Choose at a stage; hidden states of what stays."""
        rows, length = call.words.shape
        before = call.left
        merged: list[tuple[Picture, Tensor]] = []
        received: dict[int, Tensor] = {}
        device = hidden.device
        keep = torch.ones(rows, length, dtype=torch.bool, device=device)
        if before is not None:
            keep = spread(before, torch.ones_like(before, dtype=torch.bool), length)
        for picture in call.pictures:
            k = picture.schedule[at]
            if k < len(picture.left):
                # Merged rows have gradients, scores have none.
                grad = torch.is_grad_enabled() and self._inside.merges and not call.again
                with Timer(device) as timer, torch.set_grad_enabled(grad):
                    tokens = self._tokens(call, at, hidden, picture, received, coming)
                    chosen = self._inside.choose(tokens, k)
                picture.timers.append(timer)
                check_chosen(chosen, tokens, k, type(self._inside).__name__)
                keep[picture.row, picture.columns[picture.left]] = False
                picture.left = picture.left[chosen.indices]
                keep[picture.row, picture.columns[picture.left]] = True
                if chosen.features is not None and call.again:
                    raise stock.unknown(
                        f"{type(self._inside).__name__} merges tokens, which gradient "
                        "checkpointing cannot run again before transformers 5.23: switch one of "
                        "the two off (recycle=False), or install transformers >= 5.23"
                    )
                if chosen.features is not None:
                    merged.append((picture, chosen.features))
            picture.kept[at] = picture.left
        if before is None and bool(keep.all()):
            return hidden
        keep &= call.real.to(device)  # padding would hold places that others have given up
        call.left = kept_columns(keep)
        shorter = gathered(hidden, before, call.left, length)
        for picture, features in merged:
            at_row = torch.isin(call.left[picture.row], picture.columns[picture.left])
            shorter[picture.row, at_row] = features.to(shorter.dtype)
        return shorter

    def _tokens(
        self,
        call: Call,
        at: int,
        hidden: Tensor,
        picture: Picture,
        received: dict[int, Tensor],
        coming: Callable[[], Coming],
    ) -> LayerTokens:
        """A picture as methods see it; what all columns of a row got is kept in `received`."""
        row, taken = picture.row, call.taken[at]
        columns = torch.arange(call.words.shape[1], device=hidden.device)
        if call.left is not None:
            columns = call.left[row]
        places = torch.isin(columns, picture.columns[picture.left]).nonzero()[:, 0]
        words = ((columns >= 0) & call.words[row, columns.clamp(min=0)]).nonzero()[:, 0]
        keys = taken.keys(row).transpose(0, 1).flatten(1)
        real = (columns >= 0) & call.real[row, columns.clamp(min=0)]

        def paid(taken: Taken, asking: Tensor) -> Tensor:
            earlier = real[:0] if taken.past_seen is None else taken.past_seen[row]
            causal = torch.arange(len(columns), device=hidden.device) <= asking[:, None]
            seen = torch.cat((earlier.expand(len(asking), -1), causal & real), dim=1)
            if taken.mask is not None:  # some models let pictures, or prompts, see ahead
                seen = visible(taken.mask[min(row, len(taken.mask) - 1), 0, asking])
            return taken.attention(row, asking, seen)[:, len(earlier) :]

        def from_all() -> Tensor:
            if row not in received:
                asking = real.nonzero()[:, 0]
                total = torch.zeros(len(columns), device=hidden.device)
                own = torch.arange(len(columns), device=hidden.device)
                for some in asking.split(_BLOCK):  # the whole matrix never exists
                    total += paid(taken, some).masked_fill(some[:, None] == own, 0).sum(0)
                received[row] = total / max(len(asking) - 1, 1)
            return received[row][places]

        def embeddings() -> tuple[Tensor, Tensor]:
            assert call.embedded is not None, "needs must name decoder_embeddings"
            return call.embedded[row, picture.columns], call.embedded[row, columns[words]]

        def changes() -> tuple[Change, ...]:
            mine = picture.columns[picture.left]
            return tuple(one.of(row, mine, call.real[row]) for one in call.changes)

        return LayerTokens(
            layer=at, features=hidden[row, places], indices=picture.left, text=hidden[row, words],
            behind=columns[words] > picture.columns[-1],
            keys=keys[places], text_keys=keys[words], received=from_all,
            attention=lambda which: paid(taken, words[which])[:, places],
            next_attention=lambda which: paid(coming(), words[which])[:, places],
            embeddings=embeddings, changes=changes, norm=stock.last_norm(self._decoder),
        )  # fmt: skip

    def _shortened(
        self, call: Call, at: int, hidden: Tensor, held: Tensor | None, kwargs: dict[str, Any]
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
            changed = stock.with_rotary(changed, tuple(rotary_of(p, inside) for p in embeddings))
            # FlashAttention reads gaps in positions as packed sequences.
            if kwargs.get("position_ids") is not None:
                steps = torch.arange(queries, device=device)
                changed["position_ids"] = (call.past + steps).expand(rows, -1)
        columns = torch.arange(queries, device=device).expand(rows, -1) if left is None else left
        past = torch.arange(call.past, device=device).expand(rows, -1) if held is None else held
        all_columns = torch.cat((past, torch.where(columns < 0, -1, columns + call.past)), dim=1)
        changed["attention_mask"] = shorter_mask(
            kwargs.get("attention_mask"), left, all_columns, queries, hidden.dtype, self._flat
        )
        return changed

    def _after_decoder(self, module: Any, args: tuple[Any, ...], output: Any) -> Any:
        """Give hidden states their full length again; a dropped token has those before it."""
        call = self._call
        if call is None or call.left is None:
            return None
        hidden = stock.last_hidden(output)
        length = call.words.shape[1]
        between = [
            states if left is None else filled(left, states, length)
            for left, states in zip([None, *call.lefts], stock.all_hidden(output), strict=False)
        ]
        if between:
            stock.set_all_hidden(output, tuple(between))
        stock.set_last_hidden(output, filled(call.left, hidden, length))
        return output


def _sight(call: Call, at: int, held: Tensor | None, arguments: dict[str, Any]) -> dict[str, Any]:
    """What layer `at`, which gets `arguments`, lets its queries see: fields of a `Taken`."""
    embeddings, mask = stock.rotary(arguments), arguments.get("attention_mask")
    assert embeddings is not None  # looked at before the first layer
    seen: dict[str, Any] = {"embeddings": embeddings}
    seen["mask"] = mask if isinstance(mask, Tensor) and mask.ndim == 4 else None
    cache = stock.cache_of(arguments)
    if call.past and cache is not None:
        seen["past"] = stock.cached_keys(cache, at)
        seen["past_seen"] = seen_before(call, held)
    return seen


def _pictures(kinds: Tensor, counts: list[int] | None) -> list[Tensor]:
    """Columns of each picture in a row; without counts, each run of placeholders is one."""
    at = (kinds != 0).nonzero()[:, 0]
    if len(at) == 0:
        return []
    if counts is not None:
        return list(at.split(counts))
    breaks = ((at[1:] - at[:-1]) > 1).nonzero()[:, 0] + 1
    return [run for run in torch.tensor_split(at, breaks.tolist()) if len(run)]


def _shares(kept: Tensor, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """How many of the kept tokens lie in each of several pictures, one behind the other."""
    ends = torch.tensor(sizes, device=kept.device).cumsum(0)
    counts = torch.searchsorted(kept, ends).tolist()
    return tuple(b - a for a, b in zip([0, *counts], counts, strict=False))


def _reported(picture: Picture, layers: int, row: int, method: str) -> ImageReport:
    n = len(picture.columns)
    counts = {at: len(kept) for at, kept in picture.kept.items()}
    return ImageReport(
        before=n, after=len(picture.left), indices=picture.left,
        milliseconds=picture.timers, row=row, stages=picture.kept,
        average=averaged(counts, layers, n), method=method,
    )  # fmt: skip
