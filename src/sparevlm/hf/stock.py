"""What we rely on of transformers' inner shape: each name stands here once, with its versions.

A release that renames one of them is a change of this file alone; a test keeps them out of others.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import Cache, MaxLengthCriteria, StopStringCriteria
from transformers.generation.logits_process import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SynthIDTextWatermarkLogitsProcessor,
    WatermarkLogitsProcessor,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from sparevlm.warning import warn

OLDEST, NEWEST = "5.18.0", "5.24.0"  # the tested range; constraints.txt installs the newest

# A cache as an argument of generate, models, layers and attentions: from 5.24 on, and before.
_CACHES = ("cache", "past_key_values")
_FEATURES = "mm_encoder_outputs"  # from 5.18 on
_ATTENTION = ("q_proj", "k_proj", "head_dim", "scaling")
_READ = "vision_feature_layer"  # an argument and a setting
_VISION_LAYERS = ("CLIPEncoderLayer", "SiglipEncoderLayer")
_VISION_ATTENTION = ("q_proj", "k_proj", "num_heads", "scale")
_warned: set[str] = set()


class UnknownShapeError(ValueError):
    """A part of transformers, or of a model, is not built in a way that is known here."""


# -- versions


def installed() -> str:
    """The version of transformers that is installed."""
    return str(transformers.__version__)


def check_version() -> None:
    """Raise UnknownShapeError on a transformers too old, warn once on one newer than tested."""
    if _number(installed()) < _number(OLDEST):
        raise UnknownShapeError(
            f"transformers {installed()} is installed, and its models take no pruned features: "
            "install transformers >= 5.18"
        )
    if is_newer() and installed() not in _warned:
        _warned.add(installed())
        warn(
            f"transformers {installed()} is newer than {NEWEST}, the newest that this sparevlm is "
            f"tested with: if something fails, install transformers=={NEWEST} or a newer sparevlm"
        )


def is_newer() -> bool:
    """Whether the installed transformers is newer than tested."""
    return _number(installed()) > _number(NEWEST)


def _number(version: str) -> tuple[int, ...]:
    numbers = [int(part) for part in re.findall(r"\d+", version)[:3]]
    return (*numbers, *[0] * (3 - len(numbers)))


def unknown(
    what: str, works: str = "methods that prune before the decoder still work"
) -> UnknownShapeError:
    """The error for a shape that is not known.

    Parameters
    ----------
    what : str
        What was met.
    works : str
        What the user can go on with.
    """
    return UnknownShapeError(
        f"{what}: transformers {installed()} is installed, and sparevlm is tested with {OLDEST} to "
        f"{NEWEST}; {works}"
    )


# -- caches


def cache_of(kwargs: dict[str, Any]) -> Any:
    """The cache among the arguments of a call, under either name; None without one.

    Raises
    ------
    ValueError
        If there is one under each name.
    """
    caches = [kwargs[name] for name in _CACHES if kwargs.get(name) is not None]
    if len(caches) > 1:
        raise ValueError(f"{' and '.join(_CACHES)} were both given: pass one of them")
    return caches[0] if caches else None


def with_cache(takes: Callable[..., Any], kwargs: dict[str, Any], cache: Any) -> dict[str, Any]:
    """Arguments with a cache under the name that a function, or a module's forward, takes."""
    rest = {name: value for name, value in kwargs.items() if name not in _CACHES}
    return rest if cache is None else rest | {cache_name(takes): cache}


def with_tap(attention: Any, kwargs: dict[str, Any], tap: Any) -> dict[str, Any]:
    """Arguments of an attention with another cache in place of its own, or of none."""
    own = next((name for name in _CACHES if name in kwargs), None)
    return kwargs | {own or cache_name(type(attention).forward): tap}


@functools.cache
def cache_name(takes: Callable[..., Any]) -> str:
    """What a function calls the cache that it takes."""
    names = inspect.signature(takes).parameters
    for name in _CACHES:
        if name in names:
            return name
    raise unknown(f"{takes.__qualname__} takes a cache under another name than before")


def cached_tokens(cache: Any) -> int:
    """How many tokens a cache holds; 0 without one."""
    if cache is None:
        return 0
    if not hasattr(cache, "get_seq_length"):
        raise ValueError(
            f"the cache must be a Cache of transformers, not {type(cache).__name__}: pass the one "
            "that a call returned, or transformers.DynamicCache()"
        )
    return int(cache.get_seq_length())


def cached_keys(cache: Any, layer: int) -> Tensor:
    """The keys [B, H, P, C] of one layer."""
    keys: Tensor = cache.layers[layer].keys
    return keys


def row_keys(cache: Any, column: int) -> tuple[int, Tensor] | None:
    """Some keys [B, 8] of one column of the last layer of a cache, and the column, from the front.

    A negative one counts from the end; None where the layer has no such keys.
    """
    layers = getattr(cache, "layers", None)
    keys = getattr(layers[-1], "keys", None) if layers else None
    if not isinstance(keys, Tensor) or keys.ndim != 4 or has_fixed_length(cache):
        return None
    if not -keys.shape[2] <= column < keys.shape[2]:
        return None
    return column % keys.shape[2], keys[:, 0, column, :8].detach().clone()


def cache_bytes(cache: Any) -> int:
    """Bytes of all keys and values."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def has_fixed_length(cache: Any) -> bool:
    """Whether a cache is static: one length for all layers."""
    layers = getattr(cache, "layers", ())
    return any(getattr(layer, "is_compileable", False) for layer in layers)


def tell_one_length(cache: Any) -> None:
    """Let a cache tell its first layer's length for all, until `tell_true_lengths`.

    Stock code makes the mask of each kind of layer by the length of the first layer of the kind,
    which may be one that holds less; masks of the whole are then cut for each layer.
    """
    past = cached_tokens(cache)
    cache.get_query_offset = lambda layer_idx=0: past
    cache.get_mask_sizes = lambda query_length, layer_idx=0: (past + query_length, 0)


def tell_true_lengths(cache: Any) -> None:
    """Take back `tell_one_length`."""
    if cache is not None:
        del cache.get_query_offset, cache.get_mask_sizes


def check_cache(model: Any, cache: Any) -> None:
    """Raise ValueError if what a cache holds cannot be of this model.

    Parameters
    ----------
    model
        A transformers model.
    cache
        A cache that is not empty.
    """
    held = getattr(cache, "layers", None)
    if held is None:
        return
    layers = _cache_layers(model)
    widths = [
        (keys.shape[1] * keys.shape[3], attention.k_proj.out_features)
        for keys, attention in zip(
            (getattr(layer, "keys", None) for layer in held),
            attentions(decoder_of(model)),
            strict=False,
        )
        if isinstance(keys, Tensor) and keys.ndim == 4 and hasattr(attention, "k_proj")
    ]
    odd = next(((width, own) for width, own in widths if width != own), None)
    if len(held) not in layers or odd:
        kept, made = odd or (len(held), layers[0])
        part = "keys of width" if odd else "layers:"
        raise ValueError(
            f"the cache is of another model ({part} {kept}, where {type(model).__name__} makes "
            f"{made}): pass a cache that this model filled"
        )


def _cache_layers(model: Any) -> tuple[int, int]:
    """How many layers of this model cache anything, and how many it has; some share others'.

    A cache has either number of layers: 5.18 leaves out those that share, 5.23 does not.
    """
    config = model.config.get_text_config()
    layers, shared = config.num_hidden_layers, getattr(config, "num_kv_shared_layers", 0) or 0
    return layers - shared, layers


# -- what models give back


def output_cache(output: Any) -> Cache | None:
    """The cache in a model's or a generation's output, a tuple or not, under whatever name."""
    parts = output if isinstance(output, tuple) else output.values()
    return next((part for part in parts if isinstance(part, Cache)), None)


def features_of(output: Any) -> Any:
    """Features that an encoder gives the language model: a tensor, or a list or tuple of them."""
    return output.pooler_output


def set_features(output: Any, features: Any) -> None:
    """Put other features into an encoder's output."""
    output.pooler_output = features


def deeper_features(output: Any) -> list[Any]:
    """Features for deeper layers (deepstack), one entry a layer; empty for most families."""
    return list(getattr(output, "deepstack_features", None) or ())


def set_deeper_features(output: Any, features: list[Any]) -> None:
    """Put other features for deeper layers into an encoder's output."""
    output.deepstack_features = features


def encoder_states(output: Any) -> Any:
    """Hidden states of all layers of an encoder, or None; `ENCODER_STATES` asks for them."""
    return output.hidden_states


ENCODER_STATES = {"output_hidden_states": True}


def last_hidden(output: Any) -> Tensor:
    """Last hidden states [B, L, D] of a decoder."""
    hidden: Tensor = output.last_hidden_state
    return hidden


def set_last_hidden(output: Any, hidden: Tensor) -> None:
    """Put other last hidden states into a decoder's output."""
    output.last_hidden_state = hidden


# -- encoders


def all_hidden(output: Any) -> tuple[Tensor, ...]:
    """Hidden states before, between and behind the layers, where they were asked for; else ()."""
    return tuple(getattr(output, "hidden_states", None) or ())


def set_all_hidden(output: Any, hidden: tuple[Tensor, ...]) -> None:
    """Put others in their place."""
    output.hidden_states = hidden


def encoder_of(base: Any, modality: str) -> Callable[..., Any]:
    """The function that encodes pictures ("image") or videos ("video"); one may do both."""
    encoder: Any = getattr(base, f"get_{modality}_features", None)
    encoder = encoder or getattr(base, "get_image_features", None)
    if encoder is None:
        raise unknown(f"{type(base).__name__} encodes pictures by another name", _NOTHING)
    return encoder


_NOTHING = f"install transformers>={OLDEST},<={NEWEST}"


def parameters_of(takes: Callable[..., Any]) -> tuple[str, ...]:
    """Names of what a function takes, or a method besides its object; asked for in every call."""
    method = getattr(takes, "__func__", None)
    return _parameters(takes) if method is None else _parameters(method)[1:]


@functools.lru_cache(128)
def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def takes_features(model: Any) -> bool:
    """Whether a model's forward takes features that were made before."""
    return _FEATURES in parameters_of(model.forward)


def has_features(kwargs: dict[str, Any]) -> bool:
    """Whether encoders' outputs are among the arguments of a call."""
    return _FEATURES in kwargs


def with_features(kwargs: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    """Arguments with outputs of encoders, by modality."""
    return kwargs | {_FEATURES: outputs}


def vision_attentions(tower: torch.nn.Module) -> list[Any]:
    """Attentions of a vision encoder whose queries and keys can be read off, by layer.

    Norms of queries and keys come after what is read, so those with norms are left out.
    """
    return [
        part
        for part in tower.modules()
        if all(hasattr(part, name) for name in _VISION_ATTENTION)
        and isinstance(getattr(part, "q_norm", None), torch.nn.Identity | None)
    ]


def vision_layers(tower: Any) -> list[torch.nn.Module]:
    """Layers of a CLIP or SigLIP encoder, each of which gives one tensor; of others none."""
    # "vision_model": transformers < 5.20
    encoder = getattr(getattr(tower, "vision_model", tower), "encoder", None)
    layers = list(getattr(encoder, "layers", ()))
    known = all(type(layer).__name__ in _VISION_LAYERS for layer in layers)
    return layers if known else []


def reads_a_layer(model: Any) -> bool:
    """Whether a model's function for pictures reads hidden states of its encoder by index."""
    encoder = encoder_of(model.base_model, "image")
    return _READ in parameters_of(encoder) and hasattr(model.config, _READ)


def layers_read(model: Any, kwargs: dict[str, Any]) -> list[int]:
    """Indices of the hidden states that the projector reads; 0 is the embedding."""
    layers: Any = kwargs.get(_READ)
    layers = getattr(model.config, _READ, -1) if layers is None else layers
    return [layers] if isinstance(layers, int) else [int(layer) for layer in layers]


def projection(attention: Any, of: str) -> Any:
    """What makes an attention's queries (of="q") or keys ("k") [.., H * C]."""
    return getattr(attention, f"{of}_proj")


def packs(base: Any) -> bool:
    """Whether a model packs the tiles of a picture side by side."""
    return hasattr(base, "pack_image_features")


def pack(base: Any, config: Any, rows: list[Tensor], sizes: Any, arguments: dict[str, Any]) -> Any:
    """Rows [T, L, C] of each picture as the model packs them, with zeros for its separators.

    `given` are the call's own settings of it, where there are any.
    """
    settings: dict[str, Any] = {"image_newline": rows[0].new_zeros(rows[0].shape[-1])}
    takes = parameters_of(base.pack_image_features)
    for name in ("vision_feature_select_strategy", "vision_aspect_ratio"):
        if name in takes:
            settings[name] = (
                getattr(config, name) if arguments.get(name) is None else arguments[name]
            )
    return base.pack_image_features(rows, sizes, **settings)[0]


def tiles_of(base: Any, size: Any) -> int:
    """Into how many tiles a picture of a size is cut, the whole of it among them."""
    module: Any = inspect.getmodule(type(base))
    config = base.config
    return int(
        module.image_size_to_num_patches(
            size, config.image_grid_pinpoints, config.vision_config.image_size
        )
    )


def set_expansion(model: Any, expand: Callable[..., Any]) -> None:
    """Let `expand` repeat features for beams and several answers, until `reset_expansion`."""
    model._expand_multimodal_outputs = expand


def reset_expansion(model: Any) -> None:
    """Take back `set_expansion`."""
    del model._expand_multimodal_outputs


def expands(model: Any) -> bool:
    """Whether a model repeats features at all."""
    return hasattr(model, "_expand_multimodal_outputs")


def expanded(model: Any, ids: Tensor, outputs: dict[str, Any], times: int) -> dict[str, Any]:
    """Outputs of encoders as stock code repeats them."""
    repeated: dict[str, Any] = model._expand_multimodal_outputs(ids, outputs, expand_size=times)
    return repeated


# -- generate


def set_merging(model: Any, shown: Callable[[list[Any], list[Any]], list[Any]]) -> None:
    """Let `shown` see a call's logits processors, or stopping criteria, and which are the user's.

    Until `reset_merging`; what it gives back is what `generate` uses.
    """
    merge = model._merge_criteria_processor_list
    model._merge_criteria_processor_list = lambda default, own: shown(merge(default, own), own)


def reset_merging(model: Any) -> None:
    """Take back `set_merging`."""
    del model._merge_criteria_processor_list


def reads_prompt(processor: Any) -> bool:
    """Whether what `generate` makes itself looks at the words of the prompt."""
    return isinstance(
        processor,
        PrefixConstrainedLogitsProcessor
        | NoRepeatNGramLogitsProcessor
        | RepetitionPenaltyLogitsProcessor
        | SequenceBiasLogitsProcessor
        | SynthIDTextWatermarkLogitsProcessor
        | WatermarkLogitsProcessor
        | StopStringCriteria,
    )


def with_prompt(processor: Any, ids: Tensor) -> Any:
    """A processor that was made of the words of a prompt, made of `ids` [B, L]; others as is."""
    if isinstance(processor, EncoderNoRepeatNGramLogitsProcessor):
        return type(processor)(processor.ngram_size, ids)
    if isinstance(processor, EncoderRepetitionPenaltyLogitsProcessor):
        processor.encoder_input_ids = ids
    return processor


def is_length(criterion: Any) -> bool:
    """Whether a stopping criterion is a length of prompt and answer."""
    return type(criterion) is MaxLengthCriteria


def with_length(criterion: Any, more: int) -> Any:
    """Such a criterion for a prompt that is `more` tokens longer."""
    changed = copy.copy(criterion)
    changed.max_length += more
    return changed


# -- positions


def axes_of(
    model: Any, ids: Tensor, types: Tensor, mask: Tensor | None, places: dict[str, Tensor]
) -> Tensor:
    """Positions [3, B, L] of a prompt on a model with several axes (M-RoPE), from 0 on."""
    base = model.base_model
    if not hasattr(base, "get_rope_index"):
        raise unknown(f"{type(base).__name__} places tokens of several axes otherwise", _NOTHING)
    positions: Tensor = base.get_rope_index(
        ids, mm_token_type_ids=types.int(), attention_mask=mask, **places
    )[0]
    return positions


# -- the decoder


def decoder_of(model: Any) -> Any:
    """The language model without its head."""
    return model.base_model.get_decoder()


def layers_of(decoder: Any) -> Any:
    """A decoder's layers; empty where they are not found."""
    return getattr(decoder, "layers", ())


def attentions(decoder: Any) -> list[Any]:
    """Each layer's attention, or None."""
    return [getattr(layer, "self_attn", None) for layer in layers_of(decoder)]


def feed_forwards(decoder: Any) -> list[Any]:
    """Each layer's feed-forward part, a mixture of experts or not, or None."""
    return [getattr(layer, "mlp", None) for layer in layers_of(decoder)]


def part_output(output: Any) -> Tensor:
    """What an attention or a feed-forward part adds; some give weights or router logits too."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def reads_attention(attention: Any) -> bool:
    """Whether an attention has all parts by which its queries and keys are made again."""
    return all(hasattr(attention, part) for part in _ATTENTION)


def input_norm(layer: Any) -> Any:
    """The norm that makes a layer's input its attention's; the same where none comes first.

    Raises
    ------
    UnknownShapeError
        If neither is known of the layer.
    """
    norm = getattr(layer, "input_layernorm", None)
    if norm is None and hasattr(
        layer, "post_feedforward_layernorm"
    ):  # norms come behind, as EXAONE's
        return torch.nn.Identity()
    if norm is None:
        raise unknown(f"{type(layer).__name__} has no first norm of a name that is known")
    return norm


def device_of(layer: Any, other: torch.device) -> torch.device:
    """Where a layer's weights are; `other` if they come there when they are used."""
    weight = next(layer.parameters(), None)
    return other if weight is None or weight.device.type == "meta" else weight.device


def attend(attention: Any, normed: Tensor, embeddings: tuple[Tensor, Tensor], tap: Any) -> None:
    """Run an attention, but none of its hooks, on some columns [1, L, D] alone, with a cache."""
    named = {"hidden_states": normed, "position_embeddings": embeddings, "attention_mask": None}
    attention.forward(**with_cache(type(attention).forward, named, tap))


def heads_of(attention: Any, values: Tensor, of: str) -> Tensor:
    """Queries (of="q") or keys ("k") [L, H * C] -> [H, L, C], normalised where the layer does."""
    split = values.unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{of}_norm", None)
    return (split if norm is None else norm(split)).transpose(0, 1)


def sharing(attention: Any) -> int:
    """How many heads share a key."""
    queries, keys = (projection(attention, of).out_features for of in ("q", "k"))
    return int(queries // keys)


def rotated(attention: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads [H, L, C] turned to their positions, by the function of the attention's own module."""
    module = sys.modules[type(attention).__module__]
    turned, _ = module.apply_rotary_pos_emb(heads[None], heads[None], cos[None], sin[None])
    positioned: Tensor = turned[0]
    return positioned


def logits_of(attention: Any, queries: Tensor, keys: Tensor) -> Tensor:
    """Attention logits [H, Q, P] of queries [H, Q, C] and keys [H, P, C]."""
    logits = queries.float() @ keys.float().transpose(1, 2) * attention.scaling
    cap = getattr(attention, "attn_logit_softcapping", None)
    return logits if cap is None else (logits / cap).tanh() * cap


def last_norm(decoder: Any) -> Any:
    """The norm behind the last layer, or None where it is not found."""
    return getattr(decoder, "norm", None)


def rotary(kwargs: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Rotary embeddings (cos, sin) [.., B or 1, L, C] that a layer is given; None: another way."""
    embeddings = kwargs.get("position_embeddings")
    return embeddings if isinstance(embeddings, tuple) else None


def with_rotary(kwargs: dict[str, Any], embeddings: tuple[Tensor, ...]) -> dict[str, Any]:
    """A layer's arguments with other rotary embeddings."""
    return kwargs | {"position_embeddings": embeddings}


def will_run_again(layer: Any) -> bool:
    """Whether gradient checkpointing will run a layer again, with the hooks that are on it.

    Before 5.23 it runs the layer, from then on its forward alone.
    """
    return (
        bool(getattr(layer, "gradient_checkpointing", False))
        and bool(layer.training)
        and "__call__" in vars(GradientCheckpointingLayer)
    )


def layer_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Hidden states [B, L, D] that a layer, or a part of one, is given."""
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def with_layer_input(
    args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A layer's arguments with other hidden states, in the place where they were."""
    return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})


def is_flash(decoder: Any) -> bool:
    """Whether a decoder's attention takes masks [B, K] only, as FlashAttention does."""
    return "flash" in (decoder.config._attn_implementation or "")


def deepstack_layers(model: Any) -> int:
    """How many of the first layers add features to every visual token."""
    vision = getattr(model.config, "vision_config", None)
    return len(getattr(vision, "deepstack_visual_indexes", None) or ())


def window_of(model: Any) -> int | None:
    """The sliding window of some layers; None without one."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = kinds is None or "sliding_attention" in kinds
    return int(window) if window and slides else None
