"""Image-text similarity: where the picture and the question of a prompt are compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sparevlm.bars import loading_bars
from sparevlm.selection.rows import rooms
from sparevlm.tokens import Query

# Vision towers that checkpoints name nowhere, by (hidden size, layers, patch size, image size).
_TOWERS = {
    "clip_vision_model": {
        (1024, 24, 14, 336): "openai/clip-vit-large-patch14-336",
        (1024, 24, 14, 224): "openai/clip-vit-large-patch14",
        (768, 12, 16, 224): "openai/clip-vit-base-patch16",
        (768, 12, 32, 224): "openai/clip-vit-base-patch32",
    },
    "siglip_vision_model": {
        (1152, 27, 14, 384): "google/siglip-so400m-patch14-384",
        (1152, 27, 14, 224): "google/siglip-so400m-patch14-224",
        (768, 12, 16, 512): "google/siglip-base-patch16-512",
    },
}
_REMEMBERED = 64  # questions whose embeddings are kept
_ROWS = 4096  # patches that are brought into the common space at once


class Asked(NamedTuple):
    """A picture and what is asked of it.

    Attributes
    ----------
    features : Tensor [N, D]
        As the language model gets them.
    hidden : Tensor [N, C] or None
        Encoder states of the same patches.
    text : str or None
        The question.
    ids : Tensor [M], int64
        Token ids of the question, for scorers that need no text.
    """

    features: Tensor
    hidden: Tensor | None
    text: str | None
    ids: Tensor


class Scorer(Protocol):
    """Puts the patches of pictures and their questions into one space."""

    needs_hidden_states: bool
    needs_text: bool

    def queries(self, asked: Sequence[Asked]) -> list[Query | None]:
        """Compare features (or encoder states) with questions; None: no question."""
        ...

    def query(
        self, features: Tensor, hidden: Tensor | None, text: str | None, ids: Tensor
    ) -> Query | None:
        """`queries` of one picture; see `Asked`."""
        return self.queries([Asked(features, hidden, text, ids)])[0]


class TowerScorer(Scorer, ABC):
    """The space of an image-text model, whose vision tower is the vision-language model's.

    Questions longer than the text tower takes are cut into segments of its length, which count
    alike (CDPruner, arXiv 2506.10967, section 3). A vision-language model may have trained its
    tower further; then the space is not quite the text tower's any more.

    Parameters
    ----------
    clip
        The image-text model. It is not changed, nor moved.
    tokenizer
        Its tokenizer.

    Raises
    ------
    ValueError
        If `clip` lacks a tower or a projection.
    """

    needs_hidden_states = True
    needs_text = True
    parts: ClassVar[tuple[str, ...]]
    example: ClassVar[str]

    def __init__(self, clip: Any, tokenizer: Any) -> None:
        for part in self.parts:
            if not hasattr(clip, part):
                raise ValueError(
                    f"{type(clip).__name__} has no {part}: give a model with both towers, "
                    f"such as {self.example}"
                )
        self.clip, self.tokenizer = clip, tokenizer
        self._texts: OrderedDict[str, Tensor] = OrderedDict()

    @abstractmethod
    def segments(self, question: str) -> list[list[int]]:
        """Token ids of a question, in pieces that the text tower takes."""

    @abstractmethod
    def patches(self, hidden: Tensor) -> Tensor:
        """Encoder states [N, C'] of patches in the common space [N, C]."""

    @torch.no_grad()
    def texts(self, question: str) -> Tensor:
        """Embeddings [M, C] of the segments of a question."""
        if question in self._texts:
            self._texts.move_to_end(question)
            return self._texts[question]
        device = next(self.clip.text_model.parameters()).device
        rows = [
            self.clip.get_text_features(
                input_ids=torch.tensor([segment], device=device), return_dict=True
            ).pooler_output[0]
            for segment in self.segments(question)
        ]
        self._texts[question] = torch.stack(rows)
        if len(self._texts) > _REMEMBERED:
            self._texts.popitem(last=False)
        return self._texts[question]

    @torch.no_grad()
    def queries(self, asked: Sequence[Asked]) -> list[Query | None]:
        """See `Scorer`."""
        found: list[Query | None] = [None] * len(asked)
        states = {i: one.hidden for i, one in enumerate(asked)
                  if one.text and one.hidden is not None}  # fmt: skip
        for i, patches in self._patches_each(states):
            features, _, text, _ = asked[i]
            if len(patches) == len(features):
                assert text is not None
                texts = self.texts(text).to(features.device)
                found[i] = Query(patches.to(features.device), texts, source="clip")
        return found

    def _patches_each(self, states: dict[int, Tensor]) -> Iterator[tuple[int, Tensor]]:
        """`patches` of several pictures, by their places: of as many at once as have room."""
        places = list(states)
        for room in rooms([len(states[i]) for i in places], _ROWS):
            some = [places[j] for j in room]
            hidden = [states[i] for i in some]
            every = self.patches(hidden[0] if len(some) == 1 else torch.cat(hidden))
            yield from zip(some, every.split([len(rows) for rows in hidden]), strict=True)


class ClipScorer(TowerScorer):
    """CLIP's own space: patches through `post_layernorm` and `visual_projection`."""

    parts = ("text_model", "vision_model", "visual_projection", "text_projection")
    example = 'CLIPModel.from_pretrained("openai/clip-vit-large-patch14-336")'

    def segments(self, question: str) -> list[list[int]]:
        """See `TowerScorer`; 77 tokens each for OpenAI's, with their begin and end."""
        ids = self.tokenizer(question, add_special_tokens=False)["input_ids"]
        room = self.clip.config.text_config.max_position_embeddings - 2
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return [[bos, *ids[i : i + room], eos] for i in range(0, max(len(ids), 1), room)]

    def patches(self, hidden: Tensor) -> Tensor:
        """See `TowerScorer`."""
        weight = self.clip.visual_projection.weight
        states = self.clip.vision_model.post_layernorm(hidden.to(weight.device, weight.dtype))
        projected: Tensor = self.clip.visual_projection(states)
        return projected


class SiglipScorer(TowerScorer):
    """SigLIP's own space: each patch through `post_layernorm` and the pooling head, alone."""

    parts = ("text_model", "vision_model")
    example = 'SiglipModel.from_pretrained("google/siglip-so400m-patch14-384")'

    def __init__(self, clip: Any, tokenizer: Any) -> None:
        super().__init__(clip, tokenizer)
        if getattr(clip.vision_model, "head", None) is None:
            raise ValueError(
                f"the vision tower of this {type(clip).__name__} has no pooling head: give "
                + self.example
            )

    def segments(self, question: str) -> list[list[int]]:
        """See `TowerScorer`; padded to the length that the text tower was trained with."""
        ids = self.tokenizer(question.lower(), add_special_tokens=False)["input_ids"]
        length = self.clip.config.text_config.max_position_embeddings
        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        pieces = [[*ids[i : i + length - 1], eos] for i in range(0, max(len(ids), 1), length - 1)]
        return [piece + [pad] * (length - len(piece)) for piece in pieces]

    def patches(self, hidden: Tensor) -> Tensor:
        """See `TowerScorer`."""
        tower = self.clip.vision_model
        weight = tower.post_layernorm.weight
        states = tower.post_layernorm(hidden.to(weight.device, weight.dtype))
        # The head attends over a picture of one patch, so each row is what it alone would give.
        pooled: Tensor = tower.head(states[:, None])
        return pooled


def make_scorer(clip: Any, tokenizer: Any) -> TowerScorer:
    """The scorer for an image-text model, by what kind of model it is.

    Raises
    ------
    ValueError
        If it is neither a CLIP nor a SigLIP with both towers.
    """
    kind = str(getattr(getattr(clip, "config", None), "model_type", ""))
    return (SiglipScorer if kind.startswith("siglip") else ClipScorer)(clip, tokenizer)


class EmbeddingScorer(Scorer):
    """The language model's space: projected features against the embeddings of the question."""

    needs_hidden_states = False
    needs_text = False

    def __init__(self, embeddings: nn.Module) -> None:
        self.embeddings = embeddings

    @torch.no_grad()
    def queries(self, asked: Sequence[Asked]) -> list[Query | None]:
        """See `Scorer`."""
        known: dict[tuple[int, torch.device], Tensor] = {}
        found: list[Query | None] = []
        for features, _, _, ids in asked:
            if not len(ids):
                found.append(None)
                continue
            key = id(ids), features.device
            if key not in known:
                words = self.embeddings(ids.to(features.device, non_blocking=True))
                known[key] = words.to(features.device)
            found.append(Query(features.detach(), known[key], source="llm"))
        return found


def tower_name(model: Any) -> str | None:
    """Where the CLIP or SigLIP lies that a model's vision tower was taken from.

    A directory or a hub name, looked for in this order: a folder `clip` beside the model's weights,
    the name in the vision configuration, and the known shapes of towers; None: not known.
    """
    beside = Path(str(getattr(model, "name_or_path", "") or ".")) / "clip"
    if getattr(model, "name_or_path", "") and (beside / "config.json").is_file():
        return str(beside)
    vision: Any = getattr(model.config, "vision_config", None)
    towers = _TOWERS.get(getattr(vision, "model_type", ""))
    if towers is None:
        return None
    if getattr(vision, "_name_or_path", ""):
        return str(vision._name_or_path)
    shape = (vision.hidden_size, vision.num_hidden_layers, vision.patch_size, vision.image_size)
    return towers.get(shape)


def check_tower(clip: Any, model: Any) -> None:
    """Refuse a CLIP that the model's vision tower cannot have been taken from.

    Raises
    ------
    ValueError
        If the two vision towers differ in shape, or `clip` has none.
    """
    theirs = getattr(getattr(clip, "config", None), "vision_config", None)
    if theirs is None:
        raise ValueError(f"{type(clip).__name__} is no CLIP or SigLIP: give one, or its name")
    ours = model.config.vision_config
    for field in ("hidden_size", "patch_size"):
        if getattr(theirs, field, None) != getattr(ours, field, None):
            raise ValueError(
                f"the CLIP given has {field} {getattr(theirs, field, None)} and the model's vision "
                f"tower {getattr(ours, field, None)}: give the CLIP that the tower was taken from"
            )


def load_clip(name: str, model: Any, *, download: bool) -> TowerScorer:
    """Load the text tower and projections of a CLIP or SigLIP for a model's vision tower.

    From safetensors alone; a model that was loaded otherwise can be given instead of a name.

    Raises
    ------
    OSError
        If it is not at hand (or, with `download`, cannot be fetched).
    ValueError
        If it is no CLIP or SigLIP, or its vision tower has another shape than the model's.
    """
    from transformers import AutoModel, AutoTokenizer

    here = {"local_files_only": not download}
    with loading_bars(download and not Path(name).is_dir()):
        clip: Any = AutoModel.from_pretrained(name, use_safetensors=True, **here).eval()
        check_tower(clip, model)
        scorer = make_scorer(clip, AutoTokenizer.from_pretrained(name, **here))
    clip.vision_model.encoder.layers = nn.ModuleList()  # the model runs its own copy
    device = model.get_input_embeddings().weight.device
    if device.type == "meta":  # offloaded
        device = torch.device("cpu")
    clip.to(device=device, dtype=torch.float32 if device.type == "cpu" else model.dtype)
    return scorer
