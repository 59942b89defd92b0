"""Running a model's own vision encoder, once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sparevlm.families import Family, patch_grid
from sparevlm.hf import stock
from sparevlm.hf.capture import Capture
from sparevlm.hf.frames import THINNING, deeper, frames_of, grids_of, thinned, video_ends
from sparevlm.hf.layout import Layout, is_packed, layout_of, tile_numbers
from sparevlm.hf.media import IMAGE, Modality
from sparevlm.hf.pruning import Pruning
from sparevlm.hf.unread import passed_over, unread_layers
from sparevlm.tokens import VisualTokens

if TYPE_CHECKING:
    from sparevlm.methods.base import PruningMethod


@dataclass(eq=False)
class Encoded:
    """What the encoder gave for one modality.

    Attributes
    ----------
    modality : Modality
    output
        What the model's own function for pictures, or videos, returned.
    features : list of Tensor [N_i, D]
        One entry a picture, tile or frame.
    tokens : list of VisualTokens
        The same, detached, with what the method needs of the encoder.
    hidden : list of Tensor [N_i, C] or None
        Encoder states of the same patches at the layer that the projector reads.
    levels : list of lists of Tensor [N_i, D]
        Features for deeper layers (deepstack), one list a layer; empty for most families.
    sources : list of int
        Which picture or video of the call each entry comes from.
    used : set of str
        Arguments that the encoder took.
    tiles : int or None
        Entries of each picture, where the pixels say so.
    tile_of : list of Tensor [N_i] or None
        The tile of each token, where an entry holds tiles side by side and they were asked for.
    """

    modality: Modality
    output: Any
    features: list[Tensor]
    tokens: list[VisualTokens]
    hidden: list[Tensor] | None
    levels: list[list[Tensor]]
    sources: list[int]
    used: set[str]
    tiles: int | None = None
    tile_of: list[Tensor] | None = None

    @property
    def count(self) -> int:
        """Visual tokens of all images."""
        return sum(len(rows) for rows in self.features)

    def with_features(self, features: list[Tensor], deep: list[list[Tensor]]) -> Any:
        """A copy of the output that carries other features: one entry [k, D] a prompt.

        One entry a prompt and not one an image: transformers 5.18 repeats entries one by one for
        beams, which mixes up the images of a prompt. Families whose features are one tensor get
        one; of prompts with different numbers of tokens, a token is an entry. `deep` are the
        features for deeper layers (deepstack), a list of the same kind a layer.
        """
        output = copy.copy(self.output)
        if deep:
            stock.set_deeper_features(output, deep)
        if isinstance(stock.features_of(self.output), Tensor):
            lengths = {len(rows) for rows in features}
            even = len(lengths) == 1 and lengths != {0}
            stock.set_features(
                output, torch.stack(features) if even else torch.cat(features)[:, None]
            )
        else:
            stock.set_features(output, features)
        return output


def encode(
    pruning: Pruning,
    modality: Modality,
    kwargs: dict[str, Any],
    *,
    hidden: bool,
    runs: tuple[list[int], ...] = (),
) -> Encoded:
    """Encode the pictures, or the videos, of a call with the arguments that the call gave.

    `hidden` asks for the encoder's states beside the features. `runs` are lengths of the runs of
    placeholders that the features may fill, for families whose tiles are such runs.
    """
    method, model, family = pruning.method, pruning.model, pruning.family
    needs = method.requires
    if "encoder" in needs and modality is not IMAGE:
        raise ValueError(
            f"{type(method).__name__} encodes pictures again, and cannot do so with the frames of "
            "a video: choose another method"
        )
    encoder, arguments, used = _encoder(model, modality, kwargs)
    _bring(pruning, arguments, modality)
    capture, unread = capture_and_unread(method, model, family, kwargs)
    stated = hidden or "projector" in needs
    wanted = stock.ENCODER_STATES if stated else {}
    with (
        capture,
        _weights_here(model.base_model),
        _said_plainly(family, modality),
        passed_over(unread),
    ):
        output = encoder(**arguments, **wanted, return_dict=True)
    entries = _entries(family, modality, output, arguments, runs)
    if modality is not IMAGE and THINNING in kwargs:
        used = used | {THINNING}
        entries = entries.thinned(kwargs[THINNING])
    features = entries.features
    packed = is_packed(model, modality)
    layout = layout_of(model, family, modality, arguments, features)
    states, classes = None, [None] * len(features)
    if stated:
        layer = stock.layers_read(model, kwargs)[-1]
        states, classes = _patch_states(stock.encoder_states(output), layer, features, layout)
    fields = capture.fields(features, classes, layout, rowwise=packed)
    if "encoder" in needs and not family.grids:  # those pixels are patches already
        patch = model.config.vision_config.patch_size
        for i, more in enumerate(fields):
            more["encode"] = _smaller(encoder, arguments, i, patch)
    for more in fields:
        more["first_layer"] = pruning.first_layer
    candidates = entries.candidates(family, modality)
    tile_of = None
    if packed and method.per == "tile":
        tile_of = tile_numbers(model, arguments, candidates)
    return Encoded(
        modality=modality,
        output=entries.output,
        features=features,
        tokens=_as_tokens(family, modality, entries, candidates, fields),
        hidden=states if hidden else None,
        levels=entries.levels,
        sources=entries.sources,
        used=used,
        tiles=entries.tiles,
        tile_of=tile_of,
    )


def capture_and_unread(
    method: PruningMethod, model: Any, family: Family, kwargs: dict[str, Any]
) -> tuple[Capture, list[torch.nn.Module]]:
    """What reads off the encoder what a method asks for, and layers that no one reads."""
    read, tower = stock.layers_read(model, kwargs), getattr(model.base_model, family.tower)
    asked = method.requires, method.attention_of, method.keys_of
    capture = Capture(model, family, *asked, read[-1])
    return capture, unread_layers(model, tower, read, capture.last)


@dataclass(frozen=True, eq=False)
class _Entries:
    """An encoder's output, cut into pictures, tiles or frames.

    Attributes
    ----------
    output, features, levels, sources, tiles
        As in `Encoded`.
    grids : Tensor [V, 3] or None
        Patches of each picture or video in time, rows and columns; on the CPU.
    whole : bool
        Whether no frame lacks tokens that the processor left out.
    """

    output: Any
    features: list[Tensor]
    levels: list[list[Tensor]]
    sources: list[int]
    grids: Tensor | None
    tiles: int | None
    whole: bool = True

    def thinned(self, mask: Tensor) -> _Entries:
        """Without what a processor leaves out of videos: mask [sum of N_i]."""
        output, features = thinned(self.output, self.features, self.sources, mask)
        whole = sum(len(rows) for rows in features) == len(mask)
        return replace(self, output=output, features=features, whole=whole)

    def candidates(self, family: Family, modality: Modality) -> list[Tensor | None]:
        """False [N_i] for separators; None where an entry has none."""
        if family.newline and modality is IMAGE:
            return _candidates(self.features)
        if self.grids is None and modality is not IMAGE:
            return video_ends(self.features, square=family.square)
        return [None] * len(self.features)


def _bring(pruning: Pruning, arguments: dict[str, Any], modality: Modality) -> None:
    """Put the encoder's arguments where it wants them, as `generate` does."""
    name = _pixels_of(arguments, modality)
    tower = getattr(pruning.model.base_model, pruning.family.tower)
    device = next(tower.parameters()).device
    if device.type != "meta":  # offloaded weights come, and inputs go, when a layer runs
        arguments[name] = arguments[name].to(device)
    for sizes in ("image_sizes", "batch_num_images"):  # stock looks at those of each picture
        if isinstance(arguments.get(sizes), Tensor):
            arguments[sizes] = arguments[sizes].cpu()


def _pixels_of(arguments: dict[str, Any], modality: Modality) -> str:
    return modality.pixels if modality.pixels in arguments else IMAGE.pixels


def _entries(
    family: Family,
    modality: Modality,
    output: Any,
    arguments: dict[str, Any],
    runs: tuple[list[int], ...],
) -> _Entries:
    pixels, grids = arguments[_pixels_of(arguments, modality)], grids_of(modality, arguments)
    if modality is IMAGE:
        features, levels = _pictures(family, output, runs)
        sources = list(range(len(features)))
    else:
        features, levels, sources = frames_of(output, pixels, grids)
    stacked = pixels.ndim == 5 and pixels.shape[0] * pixels.shape[1] == len(features)
    tiles = pixels.shape[1] if stacked else None
    return _Entries(output, features, levels, sources, grids, tiles)


def _as_tokens(
    family: Family,
    modality: Modality,
    entries: _Entries,
    candidates: list[Tensor | None],
    fields: list[dict[str, Any]],
) -> list[VisualTokens]:
    """Each entry as methods see it."""
    lines = family.newline and modality is IMAGE
    tokens = []
    for i, rows in enumerate(entries.features):
        size = None
        if entries.grids is not None and entries.whole:
            size = entries.grids[entries.sources[i]].tolist()
        grid = patch_grid(family, len(rows), size, lines=lines)
        tokens.append(VisualTokens(rows.detach(), grid, candidates[i], **fields[i]))
    return tokens


def _pictures(
    family: Family, output: Any, runs: tuple[list[int], ...]
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Features and deeper features, one entry a picture or tile."""
    features = list(stock.features_of(output))
    if family.tiled in ("begin", "end"):
        features = _by_run(features, runs)
    return features, deeper(output)


def _encoder(
    model: Any, modality: Modality, kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], dict[str, Any], set[str]]:
    """The model's function for a modality, its arguments, and which of `kwargs` they are."""
    encoder = stock.encoder_of(model.base_model, modality.name)
    names = set(stock.parameters_of(encoder)) - {"kwargs"}
    if modality.pixels not in names:  # one function for both
        return encoder, {IMAGE.pixels: kwargs[modality.pixels]}, {modality.pixels}
    return encoder, {n: kwargs[n] for n in names if kwargs.get(n) is not None}, names


@contextmanager
def _weights_here(module: Any) -> Iterator[None]:
    """A module's own weights, where accelerate offloads them until its forward runs."""
    hook = getattr(module, "_hf_hook", None)
    if hook is None:
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


@contextmanager
def _said_plainly(family: Family, modality: Modality) -> Iterator[None]:
    """What an encoder raises for tensors of another family's processor, as a sentence."""
    hardware = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))
    try:
        yield
    except hardware:
        raise
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"the vision encoder of {family.name} does not take these {modality.noun}s "
            f"({' '.join(str(error).split())}): pass all that this model's own processor returned"
        ) from error


def _by_run(features: list[Tensor], runs: tuple[list[int], ...]) -> list[Tensor]:
    """The same rows, one entry a run; as they are if no runs fit."""
    rows = torch.cat([entry.flatten(0, -2) for entry in features])
    fitting = next((lengths for lengths in runs if sum(lengths) == len(rows)), None)
    return features if fitting is None else list(rows.split(fitting))


def _candidates(features: list[Tensor]) -> list[Tensor | None]:
    """False for the rows [N, D] that end a line of patches: those equal to the last; on the CPU."""
    ends = torch.cat([(rows == rows[-1]).all(1) for rows in features])
    return list((~ends.cpu()).split([len(rows) for rows in features]))


def _patch_states(
    hidden: Any, layer: int, features: list[Tensor], layout: Layout
) -> tuple[list[Tensor] | None, list[Any]]:
    """Encoder states of each visual token, and of the class tokens; None: not to be had."""
    classes: list[Any] = [None] * len(features)
    if hidden is None or hidden[layer].ndim != 3:
        return None, classes
    states = hidden[layer].detach()
    if len(states) == len(features):
        pairs = zip(states, features, strict=True)
        classes = [state[0] if len(state) == len(rows) + 1 else None for state, rows in pairs]
    return layout(states), classes


def _smaller(
    encoder: Any, arguments: dict[str, Any], i: int, patch: int
) -> Callable[[int, int], Tensor]:
    """Encodes image i shrunk to a few patches."""

    @torch.no_grad()
    def encode(rows: int, columns: int) -> Tensor:
        pixels = arguments["pixel_values"][i : i + 1]
        wide = pixels if pixels.dtype == torch.float64 else pixels.float()
        size = (rows * patch, columns * patch)
        small = F.interpolate(wide, size, mode="bicubic", antialias=True).to(pixels.dtype)
        smaller = arguments | {"pixel_values": small, "interpolate_pos_encoding": True}
        features: Tensor = stock.features_of(encoder(**smaller, return_dict=True))[0]
        return features

    return encode
