"""An environment with OpenVINO GenAI and what exports models for it, outside the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Newer transformers than 4.57 optimum-intel does not export Qwen2-VL from (its own limit is 5.0).
PINS = (
    "torch==2.13.0",
    "openvino==2026.4.1",
    "openvino-genai==2026.4.1.0",
    "openvino-tokenizers==2026.4.1.0",
    "optimum==2.3.0",
    "transformers==4.57.6",
    "nncf==3.4.0",
    "numpy==2.4.6",
    "pillow==13.0.0",
)
# Alone: it asks for torchvision, which it does not need here, and which PyPI has for CUDA only.
ALONE = ("optimum-intel==2.2.0",)
ALL = PINS + ALONE


def default_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sparevlm" / "openvino"


def python(folder: Path) -> Path:
    """The interpreter of the environment in `folder`, which is made if it is not there yet."""
    environment, done = folder / "venv", folder / "venv" / "installed.txt"
    found = environment / "bin" / "python"
    wanted = "\n".join(ALL)
    if done.is_file() and done.read_text() == wanted:
        return found
    print(f"installing OpenVINO GenAI in {environment} (1.6 GB)", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
    install = [str(found), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    subprocess.run([*install, *PINS], check=True)
    subprocess.run([*install, "--no-deps", *ALONE], check=True)
    done.write_text(wanted)
    return found


def clean() -> dict[str, str]:
    """Our variables without those that would lead the other interpreter to our packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
