"""A vLLM server for a bench, and what its metrics say."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

MODULE = "vllm.entrypoints.openai.api_server"


class Server:
    """An address, and Prometheus' numbers behind it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def numbers(self) -> dict[str, float]:
        """Sums over labels of every metric."""
        found: dict[str, float] = {}
        for line in httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines():
            match = re.match(r"^([a-zA-Z_:]+)(?:\{[^}]*\})? ([-+.eE\d]+)$", line)
            if match:
                found[match[1]] = found.get(match[1], 0.0) + float(match[2])
        return found

    @contextmanager
    def watching(self, every: float = 0.25) -> Iterator[list[float]]:
        """Shares of the KV cache in use, sampled meanwhile."""
        seen: list[float] = []
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(every):
                seen.append(self.numbers().get("vllm:kv_cache_usage_perc", 0.0))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            stop.set()
            thread.join()


@contextmanager
def serving(
    model: Path, settings: dict[str, Any] | None, log: Path, options: list[str],
    module: str,
) -> Iterator[Server]:  # fmt: skip
    """A server of a checkpoint, with these settings of sparevlm; None: nothing is pruned.

    `module` is what starts it: `MODULE`, or one that goes on to it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", module, "--model", str(model),
        "--served-model-name", "bench", "--host", "127.0.0.1", "--port", str(port), *options,
    ]  # fmt: skip
    if settings is not None:
        command += ["--mm-processor-kwargs", json.dumps({"sparevlm": settings})]
    with log.open("w") as out:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        try:
            yield _ready(Server(f"http://127.0.0.1:{port}"), process, log)
        finally:
            process.terminate()
            process.wait(timeout=120)


def _ready(server: Server, process: subprocess.Popen[bytes], log: Path) -> Server:
    while process.poll() is None:
        try:
            if httpx.get(f"{server.url}/health", timeout=5).status_code == 200:
                return server
        except httpx.TransportError:
            time.sleep(0.5)
    raise RuntimeError(f"the server did not start: see {log}")
