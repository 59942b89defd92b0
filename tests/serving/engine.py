"""Answers of vLLM, in a process of its own: python -m tests.serving.engine JOB.json.

A job holds the arguments of `LLM` and rounds of requests; it is answered with token ids and lengths
of prompts in JOB.answers.json. Requests of a round run together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATHS = os.pathsep.join([str(ROOT / "src"), str(ROOT)])  # of this checkout
ENGINE = {
    "dtype": "float32", "enforce_eager": True, "max_model_len": 512, "max_num_seqs": 8,
    "max_num_batched_tokens": 512, "limit_mm_per_prompt": {"image": 4, "video": 4}, "seed": 0,
}  # fmt: skip


@dataclass
class Request:
    """A prompt, paths of pictures and videos, and what to ask of sparevlm.

    `choices` bound the answer.
    """

    prompt: str
    pictures: list[str]
    sparevlm: Any = None
    uuids: list[str] | None = None
    choices: list[str] | None = None
    tokens: int = 8
    films: list[str] = field(default_factory=list)


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


def environment(**more: str) -> dict[str, str]:
    """For a process with vLLM in it: quiet, small, off the network."""
    ours = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return {
        **ours, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "PYTHONPATH": PATHS, **more,
    }  # fmt: skip


def answers(
    folder: Path, model: Path, rounds: list[list[Request]], **engine: Any
) -> list[list[Answer]]:
    """What vLLM says to rounds of requests."""
    job = folder / "job.json"
    given = {"model": str(model), **ENGINE, **engine}
    job.write_text(json.dumps([given, [[asdict(r) for r in requests] for requests in rounds]]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.serving.engine", str(job)],
        env=environment(VLLM_ENABLE_V1_MULTIPROCESSING="0"), cwd=ROOT,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(job.with_suffix(".answers.json").read_text())
    return [[Answer(**answer) for answer in part] for part in found]


def main(path: Path) -> None:
    """Answer a job."""
    from PIL import Image
    from vllm import LLM, SamplingParams
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import StructuredOutputsParams

    engine, rounds = json.loads(path.read_text())
    llm = LLM(**engine, disable_log_stats=True)
    encoded: dict[str, Any] = {"pictures": [], "frames": []}  # that the tower got at once
    schedule = llm.llm_engine.vllm_config.scheduler_config
    encoded["room"] = schedule.max_num_encoder_input_tokens

    now = {"films": False}

    def watch(model: Any) -> None:
        tower = model.vision_tower if hasattr(model, "vision_tower") else model.visual

        def note(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            count = len(args[0] if args else named["pixel_values"])
            encoded["frames" if now["films"] else "pictures"].append(count)

        tower.register_forward_pre_hook(note, with_kwargs=True)

    if engine.get("tensor_parallel_size", 1) == 1:  # else it lives in other processes
        llm.apply_model(watch)
    found: list[list[dict[str, Any]]] = []
    for part in rounds:
        requests = [Request(**given) for given in part]
        now["films"] = any(request.films for request in requests)
        prompts, sampling = [], []
        for request in requests:
            pictures = [Image.open(picture).convert("RGB") for picture in request.pictures]
            prompt: dict[str, Any] = {"prompt": request.prompt}
            given: dict[str, Any] = {"image": pictures} if pictures else {}
            if request.films:
                given["video"] = [film(path) for path in request.films]
            if given:
                prompt["multi_modal_data"] = given
            if request.sparevlm is not None:
                prompt["mm_processor_kwargs"] = {"sparevlm": request.sparevlm}
            if request.uuids is not None:
                prompt["multi_modal_uuids"] = {"image": request.uuids}
            bound = request.choices and StructuredOutputsParams(choice=request.choices)
            prompts.append(prompt)
            sampling.append(
                SamplingParams(
                    temperature=0, max_tokens=request.tokens, ignore_eos=not request.choices,
                    structured_outputs=bound or None,
                )
            )  # fmt: skip
        try:
            outputs = llm.generate(prompts, sampling, use_tqdm=False)
        except (ValueError, VLLMValidationError) as error:
            found.append([asdict(Answer(error=str(error))) for _ in requests])
            continue
        found.append([
            asdict(
                Answer(
                    len(o.prompt_token_ids), list(o.outputs[0].token_ids), o.outputs[0].text,
                    o.num_cached_tokens or 0,
                )
            )
            for o in outputs
        ])  # fmt: skip
    path.with_suffix(".answers.json").write_text(json.dumps(found))
    path.with_suffix(".encoded.json").write_text(json.dumps(encoded))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
