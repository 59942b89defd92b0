"""Threads that share a pruned model do not disturb each other, whatever the method."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache
from typing import Any

import pytest
import torch

from sparevlm import hf
from sparevlm.methods import SPARE, FastV, Staged, list_methods, method_class
from tests.families.common import Made
from tests.families.matrix import made

THREADS = 4
CALLS = int(os.environ.get("SPAREVLM_THREAD_CALLS", "3"))
OFTEN = max(CALLS, 12)  # where threads once met
QUESTIONS = (
    "USER: <image>\nwhat color is the star ? ASSISTANT:",
    "USER: <image>\n<image>\nis there a red circle in the first picture ? ASSISTANT:",
    "USER: <image>\nhow many are red ? ASSISTANT:",
    "USER: <image>\nwhat is left of the blue square ? what is it ? ASSISTANT:",
)
# Every method on the pocket model, some on families with tiles and with several axes.
KINDS = [("pocket", name) for name in [*list_methods(inside=None), "staged"]]
KINDS += [
    (family, name)
    for family in ("llava_next", "qwen2_5_vl")
    for name in ("spare", "fastv", "divprune", "staged", "uniform")
]
KINDS += [(family, "uniform") for family in ("glm4v", "glm4v_moe", "glm46v")]


@lru_cache
def family_of(name: str) -> Any:
    return Made(name, *hf.load("pocket", device="cpu")) if name == "pocket" else made(name)


def method_of(name: str) -> Any:
    if name == "staged":
        return Staged(SPARE(9, guidance="none"), FastV(0.75, layer=1))
    cls = method_class(name)
    settings = {f.name for f in fields(cls)}
    more = {"average": False} if "average" in settings else {}
    more |= {"guidance": "none"} if "guidance" in settings else {}
    if name in ("fastv", "dart-decoder", "spare-decoder"):
        more["layer"] = 1
    return cls(0.5 if cls.inside else 7, **more)


def at_once(work: Callable[[int], None]) -> None:
    """Run a function in several threads, and raise what one raised."""
    errors: list[BaseException] = []
    gate = threading.Barrier(THREADS)

    def run(number: int) -> None:
        try:
            gate.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize(("name", "method"), KINDS)
def test_forward_calls(name, method) -> None:
    """Logits are those of one thread, and each thread's report is of its own call."""
    family, way = family_of(name), method_of(method)
    prompts = [family.inputs(words, first=i) for i, words in enumerate(QUESTIONS)]
    options = {"relevance": "llm", "tokenizer": family.processor.tokenizer}
    calls = OFTEN if name == "pocket" and method in ("fastv", "staged", "spare") else CALLS
    with torch.no_grad(), way.attach(family.model, **options) as handle:
        expected, reports = [], []
        for inputs in prompts:
            expected.append(family.model(**inputs, logits_to_keep=1).logits)
            reports.append([(one.before, one.indices.tolist()) for one in handle.report])

        def work(number: int) -> None:
            for _ in range(calls):
                with torch.no_grad():
                    logits = family.model(**prompts[number], logits_to_keep=1).logits
                torch.testing.assert_close(logits, expected[number], rtol=1e-4, atol=1e-4)
                report = [(one.before, one.indices.tolist()) for one in handle.report]
                assert report == reports[number]

        at_once(work)


@pytest.mark.parametrize(
    ("name", "method"),
    [("pocket", "fastv"), ("pocket", "staged"), ("pocket", "spare"), ("qwen2_5_vl", "fastv"),
     ("llava_next", "staged"), ("glm4v", "uniform"), ("glm46v", "uniform")],
)  # fmt: skip
def test_generate_with_beams(name, method) -> None:
    family, way = family_of(name), method_of(method)
    prompts = [family.inputs(words, first=i) for i, words in enumerate(QUESTIONS)]
    options = {"max_new_tokens": 3, "do_sample": False, "num_beams": 2}
    with way.attach(family.model) as handle:
        expected = [family.model.generate(**inputs, **options) for inputs in prompts]

        def work(number: int) -> None:
            for _ in range(CALLS):
                assert torch.equal(
                    family.model.generate(**prompts[number], **options), expected[number]
                )

        at_once(work)
        assert handle.report  # of the thread that attached: its own last call


def test_the_report_of_an_answer_that_came_from_another_thread() -> None:
    """As where an answer is streamed: who asked made no call of its own."""
    family = family_of("pocket")
    inputs = family.inputs(QUESTIONS[0])
    with SPARE(9, guidance="none").attach(family.model) as handle:
        other = threading.Thread(
            target=family.model.generate, kwargs={**inputs, "max_new_tokens": 2}
        )
        other.start()
        other.join()
        assert [one.after for one in handle.report] == [9]
