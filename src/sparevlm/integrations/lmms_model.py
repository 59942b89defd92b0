"""The model that lmms-eval asks: any supported checkpoint, pruned by any method."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.protocol import ChatMessages
from PIL import Image

from sparevlm.chat import tokenized
from sparevlm.hf import load
from sparevlm.images import open_picture
from sparevlm.integrations.arguments import read_plan
from sparevlm.progress import progress_bar

MAX_NEW_TOKENS = 128  # where a task does not say
GREEDY = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None}


class SpareVLM(lmms):
    """A vision-language model with its visual tokens pruned.

    Parameters
    ----------
    batch_size : int
        Requests at a time.
    arguments
        As `read_plan` takes them.

    Raises
    ------
    ValueError
        For wrong arguments, and as `sparevlm.load` does.
    """

    is_simple = False

    def __init__(self, batch_size: int | str = 1, **arguments: Any) -> None:
        super().__init__()
        arguments.pop("max_batch_size", None)
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(f"batch_size={batch_size!r}: give a number of requests, at least 1")
        self.batch_size = int(batch_size)
        self.plan = read_plan(**arguments)
        self.model, self.processor = load(
            self.plan.pretrained, dtype=self.plan.dtype, device=self.plan.device
        )
        self.processor.tokenizer.padding_side = "left"
        self.kept: list[tuple[int, int]] = []

    def loglikelihood(self, requests: list[Instance]) -> Any:
        """Not what this model is for."""
        raise NotImplementedError(
            "sparevlm answers by generating: choose a task whose output_type is generate_until"
        )

    def generate_until_multi_round(self, requests: list[Instance]) -> Any:
        """Not what this model is for."""
        raise NotImplementedError("sparevlm asks one round: choose a task of generate_until")

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer requests, those with the same generation arguments together.

        Raises whatever generating raises: a missing answer would count as a wrong one.
        """
        answers: dict[int, GenerationResult] = {}
        method, seconds = self.plan.method, 0.0
        self.kept = []
        pruning = (
            method.attach(
                self.model, tokenizer=self.processor.tokenizer, relevance=self.plan.relevance
            )
            if method
            else nullcontext()
        )
        with pruning as handle, progress_bar(len(requests), "request") as bar:
            for numbers in self._batches(requests):
                began = time.perf_counter()
                some = self._answer([requests[i] for i in numbers], handle)
                seconds += time.perf_counter() - began
                answers.update(zip(numbers, some, strict=True))
                bar.update(len(numbers))
        self._log(list(answers.values()), seconds)
        return [answers[i] for i in range(len(requests))]

    def _batches(self, requests: Sequence[Instance]) -> Iterator[list[int]]:
        """Numbers of requests whose generation arguments agree."""
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(repr(request.args[2]), []).append(i)
        for group in groups.values():
            for start in range(0, len(group), self.batch_size):
                yield group[start : start + self.batch_size]

    def _answer(self, requests: Sequence[Instance], handle: Any) -> list[GenerationResult]:
        """Answer one batch; prompts without a picture go by themselves."""
        asked = [self._chat(request) for request in requests]
        answers: dict[int, GenerationResult] = {}
        for with_pictures in (True, False):
            numbers = [i for i, (_, some) in enumerate(asked) if bool(some) == with_pictures]
            if numbers:
                some = self._generate([asked[i] for i in numbers], requests[0].args[2], handle)
                answers.update(zip(numbers, some, strict=True))
        return [answers[i] for i in range(len(requests))]

    def _chat(self, request: Instance) -> tuple[list[Any], list[Image.Image]]:
        _, to_messages, _, doc_id, task, split = request.args
        messages = ChatMessages(messages=to_messages(self.task_dict[task][split][doc_id]))
        images, videos, sounds = messages.extract_media()
        if videos or sounds:
            raise ValueError(f"task {task} asks about videos or sound: sparevlm takes pictures")
        chat = _without_pixels(messages.to_hf_messages())
        return chat, [_picture(image) for image in images]

    def _generate(
        self,
        asked: Sequence[tuple[list[Any], list[Image.Image]]],
        wanted: dict[str, Any],
        handle: Any,
    ) -> list[GenerationResult]:
        pictures = [some for _, some in asked] if asked[0][1] else None
        inputs = tokenized(self.processor, [chat for chat, _ in asked], pictures)
        inputs = inputs.to(self.model.device, self.model.dtype)
        ids = self.model.generate(**inputs, **_generation(wanted))
        self._count(inputs, handle)
        new = ids[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
        until = wanted.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        pad = self.processor.tokenizer.pad_token_id
        return [
            GenerationResult(_cut(text, stops), TokenCounts(output_tokens=int((row != pad).sum())))
            for text, row in zip(texts, new, strict=True)
        ]

    def _count(self, inputs: Any, handle: Any) -> None:
        """Visual tokens of each picture, before and after."""
        if handle is not None and "pixel_values" in inputs:
            self.kept += [(picture.before, picture.tokens) for picture in handle.report]
            return
        whole = (inputs["input_ids"] == self.model.config.image_token_id).sum(1).tolist()
        self.kept += [(tokens, tokens) for tokens in whole if tokens]

    def _log(self, answers: Sequence[GenerationResult], seconds: float) -> None:
        tokens = sum(answer.token_counts.output_tokens for answer in answers)
        pictures = max(len(self.kept), 1)
        before, after = (sum(pair[i] for pair in self.kept) for i in (0, 1))
        log_metrics(
            total_elapsed_time=seconds,
            total_gen_tokens=tokens,
            avg_speed=tokens / seconds if seconds else 0.0,
            additional_metrics={
                "full_tokens_per_image": before / pictures,
                "kept_tokens_per_image": after / pictures,
                "images": float(len(self.kept)),
            },
        )


def _picture(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    return open_picture(image)


def _without_pixels(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages for a chat template alone; pictures first, as models were trained."""
    return [
        {
            "role": message["role"],
            "content": [
                {"type": "image"} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in chat
    ]


def _generation(wanted: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `generate` from those of a task; temperature 0 is greedy."""
    known = {"max_new_tokens", "temperature", "top_p", "top_k", "num_beams", "do_sample"}
    arguments = {
        name: value for name, value in wanted.items() if name in known and value is not None
    }
    arguments.setdefault("max_new_tokens", MAX_NEW_TOKENS)
    sampling = bool(arguments.get("do_sample", arguments.get("temperature", 0))) and (
        arguments.get("temperature", 1) > 0
    )
    if not sampling:
        arguments = {k: v for k, v in arguments.items() if k in ("max_new_tokens", "num_beams")}
        return GREEDY | arguments
    return arguments | {"do_sample": True}


def _cut(text: str, stops: Sequence[str]) -> str:
    """Up to the first stop string."""
    for stop in stops:
        if stop:
            text = text.split(stop)[0]
    return text.strip()
