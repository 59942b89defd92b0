"""The processes with vLLM in them: python -m tests.serving.engine_process, see `engine`."""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import traceback
from multiprocessing.connection import Connection, Listener
from typing import Any

import torch
from PIL import Image

from tests.serving.engine import Answer, Request, film


def main() -> None:
    """Fork one process for each line of JSON, until there are no more."""
    import vllm.entrypoints.openai.api_server
    import vllm.v1.worker.cpu_worker  # noqa: F401
    from vllm.model_executor.models import registry

    import sparevlm.serving.models  # noqa: F401

    registry._run_in_subprocess = lambda inspect: inspect()  # that would import vLLM once more
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(_child(json.loads(line)))


def _child(job: dict[str, Any]) -> int:
    """Its status is written beside its log."""
    with open(job["log"], "w") as log, open(os.devnull) as nothing:
        for stream, number in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(stream.fileno(), number)
    status = 1
    try:
        if job["kind"] == "engine":
            _serve(job["address"], job["engine"])
        else:
            _run(job["module"], job["options"], job["variables"])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    with open(job["log"] + ".status", "w") as file:
        file.write(str(status))
    return status


def _run(module: str, options: list[str], variables: dict[str, str]) -> None:
    """As python -m does."""
    os.environ.update(variables)
    sys.argv = [module, *options]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _serve(address: str, engine: dict[str, Any]) -> None:
    from vllm import LLM

    with Listener(address) as listener, listener.accept() as connection:
        try:
            llm = LLM(**engine, disable_log_stats=False)
        except BaseException:
            connection.send(traceback.format_exc())
            return
        seen = Seen(llm)
        if engine.get("tensor_parallel_size", 1) == 1:  # else it lives in other processes
            llm.apply_model(seen.watch)
        connection.send("")
        _answer(connection, llm, seen)


class Seen:
    """What an engine did since it was asked for last."""

    def __init__(self, llm: Any) -> None:
        self.llm, self.films = llm, False
        self.at_once: dict[str, list[int]] = {"pictures": [], "frames": []}
        self.before = self._counted()

    def watch(self, model: Any) -> None:
        """Note how many pictures or frames the tower gets at once."""
        tower = model.vision_tower if hasattr(model, "vision_tower") else model.visual

        def note(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            count = len(args[0] if args else named["pixel_values"])
            self.at_once["frames" if self.films else "pictures"].append(count)

        tower.register_forward_pre_hook(note, with_kwargs=True)

    def _counted(self) -> dict[str, int]:
        values = {metric.name: getattr(metric, "value", 0) for metric in self.llm.get_metrics()}
        return {name: int(values.get(metric, 0)) for name, metric in _COUNTERS.items()}

    def told(self) -> dict[str, Any]:
        """See `Engine.seen`."""
        now, at_once = self._counted(), self.at_once
        grown = {name: now[name] - self.before[name] for name in now}
        self.before, self.at_once = now, {"pictures": [], "frames": []}
        room = self.llm.llm_engine.vllm_config.scheduler_config.max_num_encoder_input_tokens
        return {**at_once, **grown, "room": room}


def _answer(connection: Connection, llm: Any, seen: Seen) -> None:
    from vllm.exceptions import VLLMValidationError

    while True:
        try:
            how, rounds = connection.recv()
        except EOFError:
            return
        if how == "seen":
            connection.send(seen.told())
            continue
        found = []
        for part in rounds:
            seen.films = any(request.films for request in part)
            try:
                found.append(globals()[how](llm, part))
            except (ValueError, NotImplementedError, VLLMValidationError) as error:
                found.append([Answer(error=str(error)) for _ in part])
        connection.send(found)


_COUNTERS = {
    "preempted": "vllm:num_preemptions", "accepted": "vllm:spec_decode_num_accepted_tokens",
}  # fmt: skip


_ADAPTERS: dict[str, int] = {}  # paths, and the numbers that vLLM knows them by


def _prompt(request: Request) -> dict[str, Any]:
    pictures = [
        torch.load(path) if path.endswith(".pt") else Image.open(path).convert("RGB")
        for path in request.pictures
    ]
    prompt: dict[str, Any] = {"prompt": request.prompt}
    if request.prompt.endswith(".pt"):
        prompt = {"prompt_embeds": torch.load(request.prompt)}
    given: dict[str, Any] = {}
    if pictures:
        embedded = request.pictures[0].endswith(".pt")
        given["image"] = pictures[0] if embedded else pictures
    if request.films:
        given["video"] = [film(path) for path in request.films]
    if given:
        prompt["multi_modal_data"] = given
    if request.sparevlm is not None:
        prompt["mm_processor_kwargs"] = {"sparevlm": request.sparevlm}
    if request.uuids is not None:
        prompt["multi_modal_uuids"] = {"image": request.uuids}
    return prompt


def _lora(request: Request) -> Any:
    from vllm.lora.request import LoRARequest

    if request.lora is None:
        return None
    number = _ADAPTERS.setdefault(request.lora, len(_ADAPTERS) + 1)
    return LoRARequest(request.lora, number, request.lora)


def generate(llm: Any, requests: list[Request]) -> list[Answer]:
    """Greedy, if `sampling` says nothing else."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    sampling = [
        SamplingParams(**{
            "temperature": 0, "max_tokens": r.tokens, "ignore_eos": not r.structured,
            "structured_outputs": StructuredOutputsParams(**r.structured) if r.structured else None,
        } | r.sampling)
        for r in requests
    ]  # fmt: skip
    adapters = [_lora(r) for r in requests]
    outputs = llm.generate(
        [_prompt(r) for r in requests], sampling, use_tqdm=False,
        lora_request=adapters if any(adapters) else None,
    )  # fmt: skip
    return [_told(output) for output in outputs]


def _told(output: Any) -> Answer:
    first = output.outputs[0]
    ids = list(first.token_ids)
    given = output.prompt_token_ids or []
    return Answer(
        len(given), ids, first.text, output.num_cached_tokens or 0,
        several=[list(one.token_ids) for one in output.outputs],
        logprobs=[at[i].logprob for at, i in zip(first.logprobs or (), ids, strict=False)],
        prompt_logprobs=[
            at[i].logprob
            for at, i in zip(output.prompt_logprobs or (), given, strict=False)
            if at is not None
        ],
    )  # fmt: skip


def beam(llm: Any, requests: list[Request]) -> list[Answer]:
    """The best three beams."""
    from vllm.sampling_params import BeamSearchParams

    params = BeamSearchParams(beam_width=3, max_tokens=requests[0].tokens, ignore_eos=True)
    found = llm.beam_search([_prompt(r) for r in requests], params)
    return [
        Answer(several=[one.tokens[-requests[0].tokens :] for one in output.sequences])
        for output in found
    ]


def embed(llm: Any, requests: list[Request]) -> list[Answer]:
    """Embeddings."""
    found = llm.embed([_prompt(r) for r in requests], use_tqdm=False)
    return [Answer(len(o.prompt_token_ids), numbers=list(o.outputs.embedding)) for o in found]


if __name__ == "__main__":
    main()
