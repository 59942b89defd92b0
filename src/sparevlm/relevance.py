"""Image-text similarity: where the picture and the question of a prompt are compared."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparevlm.tokens import Query

# Vision towers that checkpoints name nowhere, by (hidden size, layers, patch size, image size).
_TOWERS = {
    (1024, 24, 14, 336): "openai/clip-vit-large-patch14-336",
    (1024, 24, 14, 224): "openai/clip-vit-large-patch14",
    (768, 12, 16, 224): "openai/clip-vit-base-patch16",
    (768, 12, 32, 224): "openai/clip-vit-base-patch32",
}
_REMEMBERED = 64  # questions whose embeddings are kept


class Scorer(Protocol):
    """Puts the patches of a picture and a question into one space."""

    needs_hidden_states: bool
    needs_text: bool

    def query(
        self, features: Tensor, hidden: Tensor | None, text: str | None, ids: Tensor
    ) -> Query | None:
        """Compare features [N, D] (or encoder states [N, C]) with a question; None: no question."""


class ClipScorer:
    """CLIP's own space: patches through `post_layernorm` and `visual_projection`.

    Questions longer than the text tower takes are cut into segments of its length (77 tokens for
    OpenAI's), which count alike (CDPruner, arXiv 2506.10967, section 3).

    Parameters
    ----------
    clip : CLIPModel
        Matches the vision tower of the vision-language model. It is not changed, nor moved.
    tokenizer
        CLIP's tokenizer.

    Raises
    ------
    ValueError
        If `clip` has no text tower or no projections.
    """

    needs_hidden_states = True
    needs_text = True

    def __init__(self, clip: Any, tokenizer: Any) -> None:
        for part in ("text_model", "vision_model", "visual_projection", "text_projection"):
            if not hasattr(clip, part):
                raise ValueError(
                    f"{type(clip).__name__} has no {part}: give a CLIPModel with both towers, "
                    'such as CLIPModel.from_pretrained("openai/clip-vit-large-patch14-336")'
                )
        self.clip, self.tokenizer = clip, tokenizer
        self._texts: OrderedDict[str, Tensor] = OrderedDict()

    @torch.no_grad()
    def texts(self, question: str) -> Tensor:
        """Embeddings [M, C] of the segments of a question."""
        if question in self._texts:
            self._texts.move_to_end(question)
            return self._texts[question]
        config = self.clip.config.text_config
        ids = self.tokenizer(question, add_special_tokens=False)["input_ids"]
        room = config.max_position_embeddings - 2
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        rows = []
        for start in range(0, max(len(ids), 1), room):
            segment = torch.tensor([[bos, *ids[start : start + room], eos]])
            found = self.clip.get_text_features(
                input_ids=segment.to(self.clip.text_projection.weight.device), return_dict=True
            )
            rows.append(found.pooler_output[0])
        self._texts[question] = torch.stack(rows)
        if len(self._texts) > _REMEMBERED:
            self._texts.popitem(last=False)
        return self._texts[question]

    @torch.no_grad()
    def patches(self, hidden: Tensor) -> Tensor:
        """Encoder states [N, C'] of patches, projected to CLIP's space [N, C]."""
        weight = self.clip.visual_projection.weight
        states = self.clip.vision_model.post_layernorm(hidden.to(weight.device, weight.dtype))
        return self.clip.visual_projection(states)

    def query(
        self, features: Tensor, hidden: Tensor | None, text: str | None, ids: Tensor
    ) -> Query | None:
        """See `Scorer`."""
        if not text or hidden is None:
            return None
        patches = self.patches(hidden)
        if len(patches) != len(features):
            return None
        texts = self.texts(text).to(features.device)
        return Query(patches.to(features.device), texts, source="clip")


class EmbeddingScorer:
    """The language model's space: projected features against the embeddings of the question."""

    needs_hidden_states = False
    needs_text = False

    def __init__(self, embeddings: nn.Module) -> None:
        self.embeddings = embeddings

    @torch.no_grad()
    def query(
        self, features: Tensor, hidden: Tensor | None, text: str | None, ids: Tensor
    ) -> Query | None:
        """See `Scorer`; `ids` [M] are the token ids of the question."""
        if not len(ids):
            return None
        return Query(features.detach(), self.embeddings(ids).to(features.device), source="llm")


def tower_name(model: Any) -> str | None:
    """Where the CLIP that a model's vision tower was taken from lies: a directory, or a hub name.

    Looked for in this order: a folder `clip` beside the model's weights, the name in the vision
    configuration, and the known shapes of CLIP towers.
    """
    beside = Path(str(getattr(model, "name_or_path", "") or ".")) / "clip"
    if getattr(model, "name_or_path", "") and (beside / "config.json").is_file():
        return str(beside)
    vision: Any = getattr(model.config, "vision_config", None)
    if getattr(vision, "model_type", "") != "clip_vision_model":
        return None
    if getattr(vision, "_name_or_path", ""):
        return str(vision._name_or_path)
    shape = (vision.hidden_size, vision.num_hidden_layers, vision.patch_size, vision.image_size)
    return _TOWERS.get(shape)


def check_tower(clip: Any, model: Any) -> None:
    """Refuse a CLIP that the model's vision tower cannot have been taken from.

    Raises
    ------
    ValueError
        If the two vision towers differ in shape, or `clip` has none.
    """
    theirs = getattr(getattr(clip, "config", None), "vision_config", None)
    if theirs is None:
        raise ValueError(f"{type(clip).__name__} is no CLIPModel: give one, or its name")
    ours = model.config.vision_config
    for field in ("hidden_size", "patch_size"):
        if getattr(theirs, field, None) != getattr(ours, field, None):
            raise ValueError(
                f"the CLIP given has {field} {getattr(theirs, field, None)} and the model's vision "
                f"tower {getattr(ours, field, None)}: give the CLIP that the tower was taken from"
            )


def load_clip(name: str, model: Any, *, download: bool) -> ClipScorer:
    """Load CLIP's text tower and projections for a model's vision tower.

    Raises
    ------
    OSError
        If it is not at hand (or, with `download`, cannot be fetched).
    ValueError
        If it is no CLIP, or its vision tower has another shape than the model's.
    """
    from transformers import AutoTokenizer, CLIPModel

    here = {"local_files_only": not download}
    clip = CLIPModel.from_pretrained(name, **here).eval()
    check_tower(clip, model)
    clip.vision_model.encoder.layers = nn.ModuleList()  # the model runs its own copy
    device = model.get_input_embeddings().weight.device
    if device.type == "meta":  # offloaded
        device = torch.device("cpu")
    clip.to(device=device, dtype=torch.float32 if device.type == "cpu" else model.dtype)
    return ClipScorer(clip, AutoTokenizer.from_pretrained(name, **here))
