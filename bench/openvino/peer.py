"""Run in the environment of OpenVINO: answers requests for first tokens, a line of JSON each.

    python peer.py FOLDER THREADS PRECISION

A request holds `prompt`, `picture` (a .npy of uint8 [H, W, 3]) and `removed`, percent of the visual
tokens. The answer: `ms` of the whole call by the clock here, `ttft` and `prepare` (embeddings,
vision encoder and pruning included) as OpenVINO counts them, and of its log `pruning` (whole
milliseconds) and `kept`, null where nothing was pruned.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
import tempfile
import time
from typing import Any, BinaryIO, TextIO

LOG = {
    "before": re.compile(r"Original Visual Tokens: (\d+)"),
    "removed": re.compile(r"Removed Visual Tokens: (\d+)"),
    "pruning": re.compile(r"Total Pruning Time: (\d+) ms"),
}


def read_log(text: str) -> dict[str, int | None]:
    """Milliseconds of pruning and tokens kept, from what OpenVINO logged during one call."""
    found = {name: pattern.findall(text) for name, pattern in LOG.items()}
    if not all(found.values()):
        return {"pruning": None, "kept": None}
    last = {name: int(values[-1]) for name, values in found.items()}
    return {"pruning": last["pruning"], "kept": last["before"] - last["removed"]}


def divert_stdout() -> tuple[TextIO, BinaryIO]:
    """Where to answer, and a file that takes what C++ writes to stdout."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    log = tempfile.TemporaryFile()  # noqa: SIM115 - lives with the process
    os.dup2(log.fileno(), 1)
    return answers, log


def logged(log: BinaryIO) -> str:
    """What was written there since the last call."""
    ctypes.CDLL(None).fflush(None)
    log.seek(0)
    text = log.read().decode(errors="replace")
    log.seek(0)
    log.truncate()
    return text


def ask(pipe: Any, request: dict[str, Any], log: BinaryIO) -> dict[str, Any]:
    import numpy as np

    import openvino as ov

    config = pipe.get_generation_config()
    config.max_new_tokens, config.ignore_eos, config.do_sample = 1, True, False
    config.apply_chat_template = False
    config.pruning_ratio = request["removed"]
    picture = ov.Tensor(np.load(request["picture"])[None])
    logged(log)
    start = time.perf_counter()
    said = pipe.generate(request["prompt"], images=[picture], generation_config=config)
    spent = 1e3 * (time.perf_counter() - start)
    seen = said.perf_metrics
    return {
        "ms": spent, "ttft": seen.get_ttft().mean, "text": said.texts[0],
        "prepare": seen.get_prepare_embeddings_duration().mean, **read_log(logged(log)),
    }  # fmt: skip


def main() -> None:
    answers, log = divert_stdout()
    import openvino_genai as genai

    folder, threads, precision = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    # The default scheduler keeps what it computed for a prompt that comes again.
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False
    pipe = genai.VLMPipeline(
        folder, "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=threads,
        INFERENCE_PRECISION_HINT=precision,
    )  # fmt: skip
    print(json.dumps({"version": genai.__version__}), file=answers)
    for line in sys.stdin:
        print(json.dumps(ask(pipe, json.loads(line), log)), file=answers)


if __name__ == "__main__":
    main()
