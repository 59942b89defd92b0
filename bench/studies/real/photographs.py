"""Real photographs with free licences, out of packages, in a folder that goes away."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import cbook
from PIL import Image

SIDE = 196  # pixels: 14 x 14 patches of 14 pixels, as many tokens as the pocket model has

SCIKIT_IMAGE = (
    "astronaut.png camera.png chelsea.png coffee.png coins.png motorcycle_left.png rocket.jpg"
).split()
"""Its other pictures are drawings, masks, microscopy, textures, or seen by a telescope."""

DEBIAN = {
    "lomiri-wallpapers-16.04": (
        "Bridge Dragonfly Picture_0B Picture_1A Wine aitzgorri free friends greentock life "
        "picosdeeuropa seeding sunset"
    ).split(),
    "lomiri-wallpapers-20.04": ["Kleiber"],
    "mate-backgrounds": (
        "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood "
        "YellowFlower"
    ).split(),
}
"""Debian package -> photographs in it, by how their files' names begin; the rest is drawn."""

GCOMPRIS = (
    "explore_farm_animals explore_monuments explore_world_animals explore_world_music"
).split()
"""Resource files of the Debian package gcompris-qt-data that hold photographs as WebP."""


@dataclass(frozen=True)
class Photograph:
    """A photograph and the package it comes from, with its version."""

    package: str
    name: str
    image: Image.Image

    @property
    def crop(self) -> np.ndarray:
        """The square in its middle at `SIDE` pixels: uint8 [SIDE, SIDE, 3]."""
        width, height = self.image.size
        short = min(width, height)
        left, top = (width - short) // 2, (height - short) // 2
        middle = self.image.crop((left, top, left + short, top + short))
        return np.asarray(middle.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def all_photographs(python: Path, folder: Path) -> list[Photograph]:
    """Every photograph, in an order that does not change.

    Parameters
    ----------
    python : path
        Of an environment that has scikit-image.
    folder : path
        Where packages are downloaded to.

    Raises
    ------
    RuntimeError
        If a package cannot be had; the message says what is needed.
    """
    found = [*_python_packages(python, folder)]
    for package, names in DEBIAN.items():
        inside, version = _debian(package, folder)
        pictures = sorted(inside.rglob("*.jpg"))
        for name in names:
            (path,) = [path for path in pictures if path.name.startswith((f"{name}_", f"{name}."))]
            found.append(_opened(f"{package} {version}", path))
    inside, version = _debian("gcompris-qt-data", folder)
    for resource in GCOMPRIS:
        (path,) = inside.rglob(f"{resource}.rcc")
        for number, data in enumerate(webps(path.read_bytes())):
            image = Image.open(io.BytesIO(data))
            if image.mode == "RGB" and min(image.size) >= SIDE:
                name = f"{resource} {number}"
                found.append(Photograph(f"gcompris-qt-data {version}", name, image))
    return found


def _python_packages(python: Path, folder: Path) -> Iterator[Photograph]:
    say = "import skimage; print(skimage.__version__, skimage.__path__[0])"
    version, where = run([python, "-c", say], folder).split(maxsplit=1)
    for name in SCIKIT_IMAGE:
        yield _opened(f"scikit-image {version}", Path(where.strip()) / "data" / name)
    run([python, "-m", "pip", "download", "--quiet", "--no-deps", "scikit-learn==1.9.1"], folder)
    (wheel,) = folder.glob("scikit_learn-*.whl")
    shutil.unpack_archive(wheel, folder / "scikit-learn", "zip")
    for name in ("china.jpg", "flower.jpg"):
        path = folder / "scikit-learn" / "sklearn" / "datasets" / "images" / name
        yield _opened("scikit-learn 1.9.1", path)
    hopper = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    yield _opened(f"matplotlib {matplotlib.__version__}", Path(str(hopper)))


def _debian(package: str, folder: Path) -> tuple[Path, str]:
    """A Debian package unpacked below a folder, nothing installed; and its version."""
    if not all(map(shutil.which, ("apt-get", "dpkg"))):
        raise RuntimeError(f"{package} is a Debian package: run this where apt-get and dpkg are")
    run(["apt-get", "--quiet", "download", package], folder)
    (archive,) = folder.glob(f"{package}_*.deb")
    run(["dpkg", "-x", archive, folder / package], folder)
    version = run(["dpkg-deb", "--field", archive, "Version"], folder).strip()
    return folder / package, version


def run(command: Sequence[str | Path], folder: Path) -> str:
    """What a command says that runs in a folder.

    Raises
    ------
    RuntimeError
        If it fails, with the end of what it complained of.
    """
    done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, command))} failed, which needs the network and a list of packages "
            f"(apt-get update): {done.stderr.strip()[-500:]}"
        )
    return done.stdout


def _opened(package: str, path: Path) -> Photograph:
    return Photograph(package, path.stem, Image.open(path).convert("RGB"))


def webps(data: bytes) -> Iterator[bytes]:
    """The WebP files that lie uncompressed in a larger one, in order."""
    for match in re.finditer(rb"RIFF(....)WEBP", data, re.DOTALL):
        length = int.from_bytes(match[1], "little") + 8
        yield data[match.start() : match.start() + length]
