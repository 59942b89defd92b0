"""Which vLLM the plugin is tested with, and whether the one that runs has what it relies on.

Looked up once, in the process that the user starts: those that it starts inherit the answer.
"""

from __future__ import annotations

import logging
import os

TESTED = "0.32"  # all its patch releases; `make test-serving` installs one
_ANSWER = "SPAREVLM_VLLM"
_said: set[str] = set()
log = logging.getLogger("vllm.sparevlm")


def refusal() -> str:
    """Why this vLLM's pictures cannot be pruned, naming what it lacks; "" if they can be."""
    from vllm import __version__ as version

    known, _, why = os.environ.get(_ANSWER, "").partition(": ")
    if known != version:
        why = _look_up(version)
        os.environ[_ANSWER] = f"{version}: {why}"
    return why


def _look_up(version: str) -> str:
    from sparevlm.serving.names.plugin import plugin_uses
    from sparevlm.serving.names.sources import installed

    source = installed("vllm")
    wrong = [use for use in plugin_uses(source) if use.problem] if source else []
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if wrong[1:] else ""
        return (
            f"sparevlm is tested with vLLM {TESTED} and cannot prune with this one, {version}, "
            f"where {wrong[0].by} finds {wrong[0].name} changed: {wrong[0].problem}{more}: install "
            f"vllm=={TESTED}.*, or ask for no budget"
        )
    return ""


def say() -> None:
    """Log, once, which vLLM this one is beside; not before vLLM has set up its log."""
    from vllm import __version__ as version

    if version in _said:
        return
    _said.add(version)
    if version.split("+")[0].split(".")[:2] == TESTED.split("."):
        log.info("sparevlm is tested with vLLM %s; this is %s", TESTED, version)
    else:
        log.warning(
            "sparevlm is tested with vLLM %s, and this is %s: all names that it relies on are "
            "there, but nothing was run with it",
            TESTED, version,
        )  # fmt: skip
