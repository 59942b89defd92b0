"""vLLM engines for the tests, in processes of their own that start from one that has vLLM already.

Importing vLLM takes longer than starting a tiny model, so `tests.serving.engine_process` does it
once for each pytest process and forks from there. Requests of a round run together.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ENGINE = {
    "dtype": "float32", "enforce_eager": True, "max_model_len": 512, "max_num_seqs": 8,
    "max_num_batched_tokens": 512, "limit_mm_per_prompt": {"image": 4, "video": 4}, "seed": 0,
}  # fmt: skip
_ALIVE = 2  # engines that wait for further requests; each holds some gigabytes


@dataclass
class Request:
    """A prompt, paths of pictures and videos, and what to ask of sparevlm.

    A picture whose name ends in .pt is a tensor: embeddings. `sampling` holds fields of vLLM's
    `SamplingParams`, `structured` those of its `StructuredOutputsParams`.
    """

    prompt: str
    pictures: list[str]
    sparevlm: Any = None
    uuids: list[str] | None = None
    tokens: int = 8
    films: list[str] = field(default_factory=list)
    lora: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    structured: dict[str, Any] = field(default_factory=dict)


RATE = 8.0  # frames a second


def film(path: str) -> tuple[Any, dict[str, Any]]:
    """Frames [F, H, W, 3], and what vLLM wants to know of them."""
    import numpy as np

    frames = np.load(path)
    known = {
        "fps": RATE, "duration": len(frames) / RATE, "total_num_frames": len(frames),
        "frames_indices": [*range(len(frames))], "video_backend": "none",
        "do_sample_frames": False,
    }  # fmt: skip
    return frames, known


@dataclass
class Answer:
    """Token ids of an answer, and how many the prompt took; `error` where it was refused."""

    prompt: int = 0
    ids: list[int] = field(default_factory=list)
    text: str = ""
    cached: int = 0  # tokens of the prompt that lay in the prefix cache
    error: str = ""
    several: list[list[int]] = field(default_factory=list)  # n > 1, or beams
    logprobs: list[float] = field(default_factory=list)  # of the answer's tokens
    prompt_logprobs: list[float] = field(default_factory=list)  # of the prompt's, from the second
    numbers: list[float] = field(default_factory=list)  # an embedding


def environment(**more: str) -> dict[str, str]:
    """For a process with vLLM in it: quiet, small, off the network."""
    ours = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return {
        **ours, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", **more,
    }  # fmt: skip


@cache
def _first() -> Any:
    """The process that others are forked from."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.serving.engine_process"],
        env=environment(VLLM_ENABLE_V1_MULTIPROCESSING="0"), cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip

    def end() -> None:
        close_all()
        process.stdin.close()
        process.wait(60)

    atexit.register(end)
    return process


def forked(kind: str, folder: Path, **given: Any) -> Path:
    """Have a process forked that does what `kind` says; the file that its output goes to."""
    log = folder / "log"
    _first().stdin.write(json.dumps({"kind": kind, "log": str(log), **given}) + "\n")
    _first().stdin.flush()
    return log


def ended(folder: Path, module: str, options: list[str], **variables: str) -> tuple[int, str]:
    """Status and output of python -m MODULE OPTIONS, which is to end by itself."""
    log = forked("module", folder, module=module, options=options, variables=variables)
    status = log.with_name("log.status")
    for _ in range(1800):
        if status.exists() and status.read_text():
            return int(status.read_text()), log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"{module} is still running: {log.read_text()[-4000:]}")


class Engine:
    """An `LLM` with these arguments. Raises AssertionError with vLLM's words if it cannot start."""

    def __init__(self, model: Path, **engine: Any) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="engine-"))
        address = str(self._folder / "socket")
        given = {"model": str(model), **ENGINE, **engine}
        self._log = forked("engine", self._folder, address=address, engine=given)
        while True:
            try:
                self._connection = Client(address)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert _first().poll() is None, "vLLM could not be imported, see stderr"
                assert not self._log.with_name("log.status").exists(), self._log.read_text()
                time.sleep(0.1)
        error = self._get()
        if error:
            self.close()
            raise AssertionError(error)

    def _get(self) -> Any:
        try:
            assert self._connection.poll(300), self._log.read_text()[-4000:]
            return self._connection.recv()
        except EOFError:
            raise AssertionError(self._log.read_text()[-4000:]) from None

    def ask(self, rounds: list[list[Request]], how: str = "generate") -> list[list[Answer]]:
        """What it says to rounds of requests; `how` is a function of `engine_process`."""
        self._connection.send((how, rounds))
        found: list[list[Answer]] = self._get()
        return found

    def seen(self) -> dict[str, Any]:
        """What was seen since this was asked for last.

        `pictures` and `frames` that the tower got at once, the encoder's `room` in tokens, requests
        `preempted`, drafted tokens `accepted`.
        """
        self._connection.send(("seen", []))
        found: dict[str, Any] = self._get()
        return found

    def close(self) -> None:
        self._connection.close()
        shutil.rmtree(self._folder, ignore_errors=True)


_shared: OrderedDict[str, Engine] = OrderedDict()


def shared(model: Path, **engine: Any) -> Engine:
    """An engine that tests of this process with the same model and arguments share."""
    key = json.dumps([str(model), engine], sort_keys=True)
    if key not in _shared:
        while len(_shared) >= _ALIVE:
            _shared.popitem(last=False)[1].close()
        _shared[key] = Engine(model, **engine)
    _shared.move_to_end(key)
    return _shared[key]


def close_all() -> None:
    """Let go of shared engines."""
    while _shared:
        _shared.popitem()[1].close()


def answers(
    folder: Path, model: Path, rounds: list[list[Request]], **engine: Any
) -> list[list[Answer]]:
    """What a new engine says to rounds of requests.

    What `seen` says then lies in `folder`/job.encoded.json.
    """
    running = Engine(model, **engine)
    try:
        found = running.ask(rounds)
        (folder / "job.encoded.json").write_text(json.dumps(running.seen()))
        return found
    finally:
        running.close()
