"""An open-loop load: requests come when they come, whatever the server has done by then."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from PIL import Image, ImageChops
from tqdm import tqdm

from sparevlm.pocket.questions import sample
from sparevlm.pocket.scenes import draw_scene

SIZES = [(336, 336), (640, 480), (480, 640), (1280, 720), (1024, 1024)]
WORDS = [8, 24, 64]  # of a question, about
ANSWERS = [8, 32]  # tokens
FRAMES, SHOT, FRAME = 32, 8, 224  # of a video; until a cut; pixels a side


@dataclass(frozen=True)
class Asked:
    """One request: when it comes, and what it sends."""

    at: float
    body: dict[str, Any]


@dataclass(frozen=True)
class Served:
    """Seconds from when a request came to its first token and to its end."""

    first: float
    last: float


def make_requests(
    count: int, rate: float, seed: int, model: str, *, videos: bool = False
) -> list[Asked]:
    """Poisson arrivals of questions of several lengths about pictures of several sizes, or videos.

    All pictures differ, so that no cache answers; the same seed makes the same requests.
    """
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate, count))
    found = []
    for i, at in enumerate(times):
        number = seed * 1_000 + i
        shown = _video(number) if videos else _picture(number, rng)
        words = sample("train", number)[1].text.split()
        length = WORDS[int(rng.integers(len(WORDS)))]
        text = " ".join((words * length)[: max(length, len(words))])
        body = {
            "model": model,
            "messages": [{"role": "user", "content": [shown, {"type": "text", "text": text}]}],
            "temperature": 0, "max_tokens": ANSWERS[int(rng.integers(len(ANSWERS)))],
            "ignore_eos": True, "stream": True,
        }  # fmt: skip
        found.append(Asked(float(at), body))
    return found


def _jpeg(picture: Image.Image) -> str:
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=90)
    return base64.b64encode(held.getvalue()).decode()


def _picture(number: int, rng: np.random.Generator) -> dict[str, Any]:
    picture = sample("train", number)[0].picture().resize(SIZES[int(rng.integers(len(SIZES)))])
    return {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + _jpeg(picture)}}


def _video(number: int) -> dict[str, Any]:
    """A new scene every SHOT frames, in between the same one moved by some pixels."""
    frames = []
    for i in range(FRAMES):
        scene = draw_scene(number * FRAMES + i // SHOT).picture().resize((FRAME, FRAME))
        frames.append(_jpeg(ImageChops.offset(scene, 3 * (i % SHOT), 0)))
    url = "data:video/jpeg;base64," + ",".join(frames)
    return {"type": "video_url", "video_url": {"url": url}}


async def run(url: str, requests: list[Asked], concurrency: int, label: str) -> list[Served]:
    """Send requests when they are due, at most `concurrency` at once; waiting counts."""
    gate = asyncio.Semaphore(concurrency)
    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(timeout=None, limits=limits) as client:
        began = time.perf_counter()
        with tqdm(total=len(requests), desc=label, leave=False) as bar:

            async def one(asked: Asked) -> Served:
                await asyncio.sleep(max(0.0, asked.at - (time.perf_counter() - began)))
                due = began + asked.at
                async with gate:
                    first = 0.0
                    async with client.stream(
                        "POST", f"{url}/v1/chat/completions", json=asked.body
                    ) as response:
                        if response.status_code != 200:
                            raise RuntimeError((await response.aread()).decode())
                        async for line in response.aiter_lines():
                            if not first and line.startswith("data: {"):
                                told = json.loads(line[6:])
                                if "error" in told:
                                    raise RuntimeError(told["error"]["message"])
                                choices = told["choices"]
                                if choices and choices[0]["delta"].get("content"):
                                    first = time.perf_counter()
                bar.update()
                now = time.perf_counter()
                return Served((first or now) - due, now - due)

            return await asyncio.gather(*[one(asked) for asked in requests])
