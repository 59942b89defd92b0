"""`sparevlm ask --url`: the same question, put to a server that speaks OpenAI's chat API."""

from __future__ import annotations

import argparse
import base64
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparevlm.budgets import read_budget
from sparevlm.commands.fields import read_set

if TYPE_CHECKING:
    from PIL import Image

TIMEOUT = 300  # seconds
HERE = ("save", "relevance", "dtype", "device")  # options that need the model in this process
ASKED = ("keep", "method", "guidance", "positions", "seed")


@dataclass(frozen=True)
class Said:
    """An answer, milliseconds until its first token, and the tokens of the prompt."""

    text: str
    first_ms: float
    prompt: int | None


def settings_of(args: argparse.Namespace) -> dict[str, Any] | None:
    """What is asked of the plugin in the server; None: what the server was started with.

    Raises
    ------
    ValueError
        If an option was given that needs the model here.
    """
    for name in HERE:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} needs the model here: leave it out with --url")
    settings = {name: getattr(args, name) for name in ASKED}
    if args.keep is not None:
        settings["keep"] = read_budget(args.keep)
    for values in read_set(args.set, [args.method or "spare"]).values():
        settings |= values
    return {name: value for name, value in settings.items() if value is not None} or None


def ask_server(args: argparse.Namespace, pictures: Sequence[Image.Image]) -> dict[str, Any]:
    """Ask, and with --compare ask again with all tokens.

    Raises
    ------
    ValueError
        If the server cannot be reached, or refuses; the message is one sentence.
    """
    url = args.url.rstrip("/").removesuffix("/v1")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"--url {args.url}: give the server's address, such as http://host:8000")
    asked = settings_of(args)
    model = args.model or _first_model(url)
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": _data_url(picture)}} for picture in pictures
    ]
    content.append({"type": "text", "text": args.question.strip()})
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": args.max_new_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    pruned = _ask(url, body, asked)
    full = _ask(url, body, {"keep": 1.0}) if args.compare else None
    return {
        "question": args.question.strip(),
        "answer": pruned.text,
        "full_answer": full.text if full else None,
        "method": (asked or {}).get("method"),
        "model": model,
        "visual_tokens": None,  # the server alone knows
        "kept_tokens": None,
        "selection_ms": None,
        "prefill_ms": round(pruned.first_ms, 3),
        "full_prefill_ms": round(full.first_ms, 3) if full else None,
        "picture": None,
        "prompt_tokens": pruned.prompt,
        "full_prompt_tokens": full.prompt if full else None,
    }


def _data_url(picture: Image.Image) -> str:
    held = io.BytesIO()
    picture.save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def _first_model(url: str) -> str:
    with _open(urllib.request.Request(f"{url}/v1/models")) as response:
        return str(json.load(response)["data"][0]["id"])


def _ask(url: str, body: dict[str, Any], asked: dict[str, Any] | None) -> Said:
    if asked is not None:
        body = {**body, "mm_processor_kwargs": {"sparevlm": asked}}
    began, first, text, prompt = time.perf_counter(), 0.0, "", None
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with _open(request) as response:
        for event in _events(response):
            if "error" in event:
                raise ValueError(f"the server stopped: {event['error'].get('message')}")
            for choice in event.get("choices", ()):
                piece = choice["delta"].get("content") or ""
                if piece and not first:
                    first = time.perf_counter()
                text += piece
            prompt = (event.get("usage") or {}).get("prompt_tokens", prompt)
    return Said(text.strip(), 1000 * ((first or time.perf_counter()) - began), prompt)


def _events(response: Any) -> Iterator[dict[str, Any]]:
    for line in response:
        data = line.decode().strip().removeprefix("data: ")
        if data.startswith("{"):
            yield json.loads(data)


def _open(request: urllib.request.Request) -> Any:
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        raise ValueError(f"the server refused ({error.code}): {_message(error)}") from None
    except (OSError, ValueError) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        raise ValueError(f"no server answers at {request.full_url}: {reason}") from None


def _message(error: urllib.error.HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text or str(error.reason)
