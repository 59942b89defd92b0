"""A real server in a process of its own."""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tests.serving.engine import ROOT, environment


class Server:
    """A server that is up."""

    def __init__(self, process: subprocess.Popen, port: int) -> None:
        self.process, self.url = process, f"http://127.0.0.1:{port}"

    def post(self, body: dict, timeout: float = 120) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=timeout)

    def metrics(self) -> dict[str, float]:
        """Sparevlm's, by name and method."""
        text = httpx.get(f"{self.url}/metrics", timeout=60).text
        found = re.findall(r'^(sparevlm_\w+)\{method="(\S+)"\} (\S+)$', text, re.M)
        return {f"{name} {method}": float(value) for name, method, value in found}

    def processes(self) -> dict[int, int]:
        """Resident bytes of the server and its workers."""
        server = psutil.Process(self.process.pid)
        return {p.pid: p.memory_info().rss for p in [server, *server.children(recursive=True)]}


def free_port() -> int:
    """One below those that systems hand out, which another process may be given meanwhile."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


MODULE = "vllm.entrypoints.openai.api_server"


def options(model: Path, port: int, *more: str) -> list[str]:
    """Of the command that starts a server."""
    return [
        "--model", str(model), "--served-model-name", "pocket", "--host", "127.0.0.1",
        "--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", "1024",
        "--max-num-seqs", "16", "--max-num-batched-tokens", "1024",
        "--limit-mm-per-prompt", '{"image": 4}', *more,
    ]  # fmt: skip


@contextmanager
def running(path: Path, model: Path, *more: str) -> Iterator[Server]:
    """A server while it is up; `path` gets its log."""
    port = free_port()
    with path.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE, *options(model, port, *more)],
            env=environment(), cwd=ROOT, stdout=log, stderr=log, text=True,
        )  # fmt: skip
        found = Server(process, port)
        try:
            for _ in range(300):
                if process.poll() is not None:
                    raise AssertionError(path.read_text()[-3000:])
                try:
                    if httpx.get(f"{found.url}/health", timeout=5).status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.5)
            yield found
        finally:
            process.terminate()
            process.wait(timeout=60)


def read(response: httpx.Response) -> tuple[str, int]:
    """The answer, and how long the prompt was."""
    assert response.status_code == 200, response.text
    found = response.json()
    return found["choices"][0]["message"]["content"].strip(), found["usage"]["prompt_tokens"]


def streamed(server: Server, body: dict) -> str:
    """An answer that comes piece by piece."""
    said = ""
    asked = body | {"stream": True}
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json=asked, timeout=60
    ) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                said += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
    return said.strip()
