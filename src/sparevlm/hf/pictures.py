"""Finding each picture, tile or frame in its prompt, and reducing it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from sparevlm.budgets import Residual, is_integer
from sparevlm.families import Family, patch_grid
from sparevlm.hf.encode import Encoded
from sparevlm.hf.media import IMAGE, mark
from sparevlm.hf.pruning import Pruning
from sparevlm.hf.reading import Prompt
from sparevlm.methods.base import PruningMethod, name_of
from sparevlm.report import ImageReport, Share, Timer
from sparevlm.tokens import Query, Reduction, VisualTokens, check_form, check_indices, joined


@dataclass(frozen=True, eq=False)
class Kept:
    """What is left of one picture.

    Attributes
    ----------
    reduction : Reduction or None
        None: all of it.
    columns : Tensor [k]
        On the CPU.
    """

    reduction: Reduction | None
    columns: Tensor


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture, tile or frame in its prompt.

    Attributes
    ----------
    row : int
    columns : Tensor [N]
        On the CPU.
    features : Tensor [N, D]
    tokens : VisualTokens
    hidden : Tensor [N, C] or None
        Encoder states.
    encoded : Encoded
        What it comes from.
    entry : int
        Its place there; of the first tile.
    """

    row: int
    columns: Tensor
    features: Tensor
    tokens: VisualTokens
    hidden: Tensor | None
    encoded: Encoded
    entry: int

    def at(self, mask: Tensor, grid: tuple[int, int] | None) -> Picture:
        """The part of it at a mask [N] on the CPU, with its own grid."""
        places = mask.nonzero()[:, 0].to(self.features.device, non_blocking=True)
        tokens = self.tokens.subset(mask)
        if tokens.candidates is not None and bool(tokens.candidates.all()):
            tokens = replace(tokens, grid=grid, candidates=None)
        return replace(
            self,
            columns=self.columns[mask],
            features=self.features[places],
            tokens=tokens,
            hidden=None if self.hidden is None else self.hidden[places],
        )

    @property
    def source(self) -> int:
        """Which picture or video of the call it belongs to."""
        return self.encoded.sources[self.entry]

    def joined_with(self, other: Picture) -> Picture:
        """Both as one picture, of which they are tiles."""
        hidden = None
        if self.hidden is not None and other.hidden is not None:
            hidden = torch.cat([self.hidden, other.hidden])
        return Picture(
            self.row,
            torch.cat([self.columns, other.columns]),
            torch.cat([self.features, other.features]),
            joined([self.tokens, other.tokens]),
            hidden,
            self.encoded,
            self.entry,
        )


def locate(pruning: Pruning, encoded: Encoded, prompt: Prompt, *, tiles: bool) -> list[Picture]:
    """Find the columns of each encoded entry; those that are cached are left out.

    `tiles`: each tile by itself, where a picture comes as several.
    """
    model, family = pruning.model, pruning.family
    placeholders, start = prompt.of(encoded.modality), prompt.start
    length = placeholders.shape[1]
    count, unit = encoded.count, encoded.modality.unit
    new = placeholders.clone()
    new[:, :start] = False
    wanted, wanted_new = int(placeholders.sum()), int(new.sum())
    if count not in (wanted, wanted_new):
        raise ValueError(
            f"{wanted} placeholders and {count} visual tokens from {len(encoded.features)} "
            f"{unit}s: give the processor one {mark(family, model, encoded.modality)} for each "
            f"{encoded.modality.noun}, and do not truncate what it returns"
        )
    mask = placeholders if count == wanted else new
    pictures: list[Picture] = []
    sizes = [len(features) for features in encoded.features]
    places = mask.flatten().nonzero()[:, 0].split(sizes)
    for i, (features, here) in enumerate(zip(encoded.features, places, strict=True)):
        begin, end = here[0].item(), here[-1].item()
        row = begin // length
        if end // length != row:
            raise ValueError(
                f"{unit} {i} has {len(features)} visual tokens, and the prompt it belongs to "
                f"another number of placeholders: give every prompt the {unit}s it mentions"
            )
        columns = here - row * length
        if begin - row * length < start:
            continue  # in the cache already
        hidden = encoded.hidden[i] if encoded.hidden is not None else None
        tile = Picture(row, columns, features, encoded.tokens[i], hidden, encoded, i)
        begins = encoded.tiles is not None and i % encoded.tiles == 0
        if encoded.tile_of is not None:
            numbers = encoded.tile_of[i]
            for number in numbers.unique():
                part = numbers == number
                pictures.append(tile.at(part, patch_grid(family, int(part.sum()))))
        elif (
            pictures and not tiles and not begins and _same(family, prompt.ids, pictures[-1], tile)
        ):
            pictures[-1] = pictures[-1].joined_with(tile)
        else:
            pictures.append(tile)
    return pictures


def _same(family: Family, ids: Tensor, first: Picture, second: Picture) -> bool:
    """Whether two entries that follow each other are tiles of one picture."""
    if second.encoded.modality is not IMAGE or first.row != second.row:
        return False
    if family.tiled == "no":
        return False
    if family.tiled in ("run", "near"):
        between = int(second.columns[0]) - int(first.columns[-1]) - 1
        return between <= (family.tiled == "near")
    row = ids[first.row]
    places = (row == row[first.columns[0]]).nonzero()[:, 0]
    if family.tiled == "begin":
        return int(row[second.columns[0] - 1]) != int(row[places[0] - 1])
    last_run = places[1:][places.diff() > 1]
    last = last_run[-1] if len(last_run) else places[0]
    # The tile that `first` ends with: where its last run begins.
    columns = first.columns
    jumps = columns[1:][columns.diff() > 1]
    begun = jumps[-1] if len(jumps) else columns[0]
    return int(row[begun - 1]) != int(row[last - 1])


def runs_of(placeholders: Tensor) -> list[int]:
    """Lengths of the runs of placeholders [B, L], row by row."""
    edges = pad(placeholders, (1, 1)).to(torch.int8).diff(dim=1)
    first, last = ((edges == step).nonzero()[:, 1] for step in (1, -1))
    lengths: list[int] = (last - first).tolist()
    return lengths


def reduce_pictures(
    pruning: Pruning, pictures: list[Picture], ids: Tensor, words: Tensor
) -> tuple[list[Kept], list[ImageReport]]:
    """Reduce each picture, or all pictures and frames of a prompt together.

    ids [B, L] are the prompts, words [B, L] True where a token is neither placeholder nor padding.
    The host reads what was kept once, of all pictures.
    """
    method, guidance = pruning.method, pruning.guidance
    groups: list[list[Picture]] = []
    for picture in pictures:
        if method.per == "prompt" and groups and groups[-1][0].row == picture.row:
            groups[-1].append(picture)
        else:
            groups.append([picture])
    tokens = [joined([picture.tokens for picture in group]) for group in groups]
    who, name = type(method).__name__, name_of(method)
    todo = [i for i, seen in enumerate(tokens) if not _keeps_all(method, seen)]
    reductions: list[Reduction | None] = [None] * len(groups)
    with Timer(ids.device if not tokens else tokens[0].features.device) as timer:
        if guidance is not None:
            asked = [picture for i in todo for picture in groups[i]]
            rows = dict.fromkeys(picture.row for picture in asked)
            queries = iter(guidance.queries(
                [(p.tokens.features, p.hidden, p.row) for p in asked],
                {row: ids[row][words[row]] for row in rows},
            ))  # fmt: skip
            for i in todo:
                query = _joined([next(queries) for _ in groups[i]])
                tokens[i] = replace(tokens[i], query=query)
        with torch.no_grad():
            together = _reduce(method, [tokens[i] for i in todo])
    for i, one in zip(todo, together, strict=True):
        check_form(one, tokens[i], who)
        reductions[i] = one
    time = Share(timer, max(len(todo), 1))
    indices = _on_host([reduction.indices for reduction in reductions if reduction is not None])
    kept, report = [], []
    for group, seen, reduction in zip(groups, tokens, reductions, strict=True):
        row, kind = group[0].row, group[0].encoded.modality.name
        sizes = [len(picture.features) for picture in group]
        if reduction is None:
            kept += [Kept(None, picture.columns) for picture in group]
            report.append(ImageReport.untouched(seen, row, kind, tuple(sizes), name))
            continue
        here = indices.pop(0)
        check_indices(here, seen, who)
        parts = _split(reduction, here, sizes)
        pairs = zip(group, parts, strict=True)
        kept += [Kept(part, picture.columns[at]) for picture, (part, at) in pairs]
        shares = tuple(len(at) for _, at in parts)
        report.append(ImageReport.of(seen, reduction, time, row, kind, shares, name))
    return kept, report


def _reduce(method: PruningMethod, tokens: list[VisualTokens]) -> list[Reduction]:
    """What a method keeps of several pictures; an error says of which."""
    try:
        return method.reduce_together(tokens)
    except ValueError:
        if len(tokens) == 1:
            raise
    reductions = []
    for i, seen in enumerate(tokens, 1):
        try:
            reductions.append(method.reduce(seen))
        except ValueError as error:
            raise ValueError(f"picture {i} of {len(tokens)}: {error}") from None
    return reductions


def _on_host(indices: list[Tensor]) -> list[Tensor]:
    """Copies on the CPU, by one transfer."""
    if not indices:
        return []
    return list(torch.cat(indices).cpu().split([len(part) for part in indices]))


def spoken(types: Tensor, mask: Tensor | None, pictures: list[Picture]) -> Tensor:
    """True for the words of each prompt [B, L]: no placeholder, no padding, no time of a frame."""
    words = types == 0
    if mask is not None and mask.shape[1] >= words.shape[1]:
        words = words & (mask[:, -words.shape[1] :] != 0)
    for first, second in pairwise(pictures):
        same = first.encoded is second.encoded and first.source == second.source
        if same and first.encoded.modality is not IMAGE:
            words[first.row, first.columns[-1] : second.columns[0]] = False
    return words


def _keeps_all(method: PruningMethod, tokens: VisualTokens) -> bool:
    """Whether nothing is to be done; separators stay where the budget covers them too."""
    keep, available = method.keep, tokens.candidate_count()
    if isinstance(keep, Residual) or method.budget(tokens) < available:
        return False
    return available == len(tokens) or (keep >= len(tokens) if is_integer(keep) else keep == 1)


def _joined(queries: list[Query | None]) -> Query | None:
    if len(queries) == 1:
        return queries[0]
    asked = [query for query in queries if query is not None]
    if len(asked) < len(queries):
        return None
    return Query(torch.cat([q.patches for q in asked]), asked[0].texts, asked[0].source)


def _split(
    reduction: Reduction, indices: Tensor, sizes: list[int]
) -> list[tuple[Reduction, Tensor]]:
    """The reduction of several pictures together, cut at their borders, and the indices of each.

    `indices` are those of `reduction`, on the CPU.
    """
    if len(sizes) == 1:
        return [(reduction, indices)]
    parts, first = [], 0
    for size in sizes:
        begin, end = torch.searchsorted(indices, torch.tensor([first, first + size])).tolist()
        rows = None if reduction.features is None else reduction.features[begin:end]
        part = Reduction(reduction.indices[begin:end] - first, rows)
        parts.append((part, indices[begin:end] - first))
        first += size
    return parts


def reduced(encoded: Encoded, pictures: list[Picture], kept: list[Kept]) -> Any:
    """The encoder's output with what is left of `pictures`, all of which come from it."""
    untouched = all(choice.reduction is None for choice in kept)
    if untouched and sum(len(picture.features) for picture in pictures) == encoded.count:
        return copy.copy(encoded.output)
    deep = [features_by_row(pictures, kept, level) for level in encoded.levels]
    return encoded.with_features(features_by_row(pictures, kept), deep)


def features_by_row(pictures: list[Picture], kept: list[Kept], level: Any = None) -> list[Tensor]:
    """Kept features, one entry a prompt; of a deeper `level`, which has the encoder's entries."""
    rows: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for picture, choice in zip(pictures, kept, strict=True):
        features = picture.features if level is None else level[picture.entry]
        reduction = choice.reduction
        if reduction is not None and reduction.features is not None and level is None:
            features = reduction.features.to(features.dtype)
        elif reduction is not None:
            features = features[reduction.indices]
        rows.setdefault(picture.row, []).append((choice.columns, features))
    return [_in_order(parts) for parts in rows.values()]


def _in_order(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Features in the order of their columns; tiles that lie side by side take turns."""
    if len(parts) == 1:
        return parts[0][1]
    columns = torch.cat([columns for columns, _ in parts])
    features = torch.cat([rows for _, rows in parts])
    if bool((columns.diff() > 0).all()):
        return features
    return features[columns.argsort().to(features.device, non_blocking=True)]
