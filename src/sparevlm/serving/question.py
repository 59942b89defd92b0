"""The question: read off the prompt in the front end, put beside the picture in the worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparevlm.families import FAMILIES
from sparevlm.relevance import EmbeddingScorer, TowerScorer, load_clip, tower_name
from sparevlm.templates import question_of
from sparevlm.tokens import Query

if TYPE_CHECKING:
    from sparevlm.serving.settings import Settings


def question_in(tokenizer: Any, config: Any, prompt: list[int]) -> str:
    """The last thing that the user asks in a prompt of token ids."""
    return question_of(tokenizer, prompt, FAMILIES[config.model_type].turns)


class Questions:
    """Compares pictures with questions in a worker.

    In the space of the vision tower's CLIP or SigLIP where the method compares there, the picture
    is one grid and the text tower is on the disk; in the space of the language model otherwise.

    Parameters
    ----------
    model
        The vLLM model.
    config
        Its `ModelConfig`.
    """

    def __init__(self, model: Any, config: Any) -> None:
        self._model, self._config = (model,), config  # no submodule of its own
        self._states: Tensor | None = None

    @cached_property
    def _tower(self) -> TowerScorer | None:
        model = self._model[0]
        if not model.one_grid or not hasattr(model, "vision_tower"):
            return None
        weight = next(model.vision_tower.parameters())
        like = SimpleNamespace(
            config=self._config.hf_config,
            name_or_path=self._config.model,
            dtype=weight.dtype,
            get_input_embeddings=lambda: SimpleNamespace(weight=weight),
        )
        name = tower_name(like)
        try:
            return None if name is None else load_clip(name, like, download=False)
        except (OSError, ValueError):
            return None

    @cached_property
    def _tokenizer(self) -> Any:
        from vllm.tokenizers import cached_tokenizer_from_config

        return cached_tokenizer_from_config(self._config)

    @contextmanager
    def listening(self, wanted: bool) -> Iterator[None]:
        """Keep what the vision tower gives meanwhile, if it is wanted and of use."""
        self._states = None
        if not wanted or self._tower is None:
            yield
            return

        def hold(module: Any, args: Any, output: Tensor) -> None:
            self._states = output

        handle = self._model[0].vision_tower.register_forward_hook(hold)
        try:
            yield
        finally:
            handle.remove()

    def query(self, settings: Settings, features: Tensor, place: int) -> Query | None:
        """Picture and question in one space; `place` is the picture's in the encoder's batch."""
        if not settings.question:
            return None
        towers = settings.method.compares == "clip"
        if towers and self._tower is not None and self._states is not None:
            return self._tower.query(
                features, self._states[place], settings.question, torch.zeros(0)
            )
        words = self._tokenizer.encode(settings.question, add_special_tokens=False)
        ids = torch.tensor(words, dtype=torch.int64, device=features.device)
        return EmbeddingScorer(_embeddings(self._model[0])).query(features, None, None, ids)


def _embeddings(model: Any) -> Any:
    """The language model's rows of words.

    Without adapters: vLLM lays those out for the tokens of a batch, which these words are not.
    """
    language = model.get_language_model()
    for name, module in language.named_modules():
        if name.endswith("embed_tokens") and hasattr(module, "base_layer"):
            return module.base_layer
    return language.embed_input_ids
