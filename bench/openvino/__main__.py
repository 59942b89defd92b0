"""First tokens with OpenVINO GenAI's CDPruner and with ours, each beside its own unpruned run.

    python -m bench.openvino [--threads T] [--rounds R] [--removed 50 89]

Installs OpenVINO GenAI and optimum-intel in an environment outside the repository (1.6 GB, once),
draws a random Qwen2-VL (576 visual tokens a picture), exports it, and asks both runtimes in turn,
each round with a picture of its own, in fp32. Times go from picture and words to the first token.
Pruning is OpenVINO's log line "Total Pruning Time", in whole milliseconds, and our report's
milliseconds: relevance and selection in both, positions of what stays in OpenVINO's alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import sparevlm
from bench.openvino import environment
from bench.openvino.ours import Ours
from bench.openvino.timing import RUNTIMES, Call, check, table

HERE = Path(__file__).parent
SIDE, TOKENS = 672, 576  # 48 x 48 patches of 14 pixels, four of which make a token
QUESTION = "what is left of the red cube?"
PROMPT = (
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
    f"{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
)


class Peer:
    """`peer.py` in its own process, with the same form of asking as `Ours`."""

    def __init__(self, process: Any, folder: Path) -> None:
        self._process, self._picture = process, folder / "picture.npy"
        self.version = self._answer()["version"]

    def ask(self, prompt: str, picture: np.ndarray, removed: int) -> dict[str, Any]:
        np.save(self._picture, picture)
        asked = {"prompt": prompt, "picture": str(self._picture), "removed": removed}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("OpenVINO GenAI stopped; what it said is above")
        return json.loads(line)


@contextmanager
def peer(interpreter: Path, folder: Path, threads: int) -> Iterator[Peer]:
    command: list[str | Path] = [
        str(interpreter),
        HERE / "peer.py",
        folder / "openvino",
        str(threads),
        "f32",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment.clean() | {"OPENVINO_LOG_LEVEL": "2"},
    ) as process:  # fmt: skip
        yield Peer(process, folder)


def checkpoint(interpreter: Path, folder: Path, sizes: dict[str, int]) -> Path:
    """The model of these sizes, made and exported unless it is there."""
    made = folder / "-".join(f"{name}{value}" for name, value in sizes.items())
    if not (made / "done").is_file():
        command: list[str | Path] = [
            str(interpreter),
            HERE / "checkpoint.py",
            json.dumps(sizes),
            made,
        ]
        subprocess.run(command, check=True, stdout=sys.stderr, env=environment.clean())
        (made / "done").touch()
    return made


def measure(
    theirs: Peer, ours: Ours, removed: list[int], rounds: int
) -> tuple[list[dict[tuple[str, int], Call]], bool]:
    """Rounds of calls, and whether both always said the same where nothing was pruned."""
    found, same = [], True
    keeps: dict[int, int | None] = {0: None}
    for number in range(rounds + 1):
        rng = np.random.default_rng(number)
        picture = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        calls, said = {}, {}
        for percent in [0, *removed]:
            answer = theirs.ask(PROMPT, picture, percent)
            if percent and answer["kept"] is None:
                raise SystemExit("OpenVINO GenAI logged no pruning, so there is nothing to compare")
            keeps.setdefault(percent, answer["kept"])
            mine = ours.ask(PROMPT, picture, keeps[percent])
            for runtime, one in zip(RUNTIMES, (answer, mine), strict=True):
                calls[runtime, percent] = Call(one["ms"], one["pruning"], one["kept"])
                said[runtime, percent] = one["text"]
        same = same and said[RUNTIMES[0], 0] == said[RUNTIMES[1], 0]
        if number:  # the first warms up
            found.append({key: calls[key] for key in sorted(calls)})
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return found, same


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="of both runtimes")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--removed", type=int, nargs="+", default=[50, 89], metavar="PERCENT")
    parser.add_argument("--hidden", type=int, default=768, help="width of the language model")
    parser.add_argument("--layers", type=int, default=6, help="of the language model")
    parser.add_argument("--vision", type=int, default=384, help="width of the vision encoder")
    parser.add_argument("--vision-layers", type=int, default=2)
    parser.add_argument(
        "--folder", type=Path, default=environment.default_folder(),
        help="for the environment and the models (%(default)s)",
    )  # fmt: skip
    asked = parser.parse_args()
    wrong = check(
        asked.removed, asked.hidden, asked.vision, (asked.layers, asked.vision_layers),
        min(asked.rounds, asked.threads),
    )  # fmt: skip
    if wrong:
        parser.error(wrong)
    return asked


def main() -> None:
    asked = arguments()
    torch.set_num_threads(asked.threads)
    folder = asked.folder.expanduser().resolve()
    interpreter = environment.python(folder)
    names = ("hidden", "layers", "vision", "vision_layers")
    sizes = {name: getattr(asked, name) for name in names}
    made = checkpoint(interpreter, folder, sizes)
    ours = Ours(made / "torch", torch.float32, QUESTION)
    with peer(interpreter, made, asked.threads) as theirs:
        rounds, same = measure(theirs, ours, asked.removed, asked.rounds)
    print(table(rounds, TOKENS))
    print(
        f"\n{platform.machine()}, threads: {asked.threads}, rounds: {asked.rounds}, "
        + ", ".join(f"{name}: {value}" for name, value in sizes.items())
    )
    exporters = [pin for pin in environment.ALL if pin.startswith(("optimum", "transformers"))]
    print(
        f"openvino-genai {theirs.version}; exported by {', '.join(exporters)}; "
        f"sparevlm {sparevlm.__version__}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )
    print(f"unpruned, both said the same first token each time: {'yes' if same else 'NO'}")


if __name__ == "__main__":
    main()
