"""What a newer vLLM changed of what the plugin uses, read off the sources in its wheel.

python -m tests.vllm_names 0.32.0           # the newest release beside 0.32.0
python -m tests.vllm_names 0.32.0 0.33.0    # this one beside it

Nothing is installed, imported or run. Of a wheel only the files that are read are fetched, where
the index can send parts of a file; else all of it, into out/wheels.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

from packaging.version import Version

from sparevlm.serving.names.found import Use
from sparevlm.serving.names.plugin import plugin_uses
from sparevlm.serving.names.sources import Reader

WHEELS = Path("out/wheels")
TARGET = [
    "--only-binary=:all:", "--platform", "manylinux_2_28_x86_64", "--platform",
    "manylinux_2_31_x86_64", "--python-version", "3.12",
]  # fmt: skip


def pip(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words], capture_output=True, text=True,
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr.strip() or f"pip {words[0]} failed")
    return done.stdout


def wheels() -> dict[str, str]:
    """Version -> where pip finds vLLM's wheel, of releases that are no previews."""
    said = pip("index", "versions", "vllm", "-vv", *TARGET)
    links = re.findall(r"Found link (\S+\.whl)\S* .*version: (\S+)", said)
    found = {version: link for link, version in links if not Version(version).is_prerelease}
    if not found:
        raise SystemExit("pip knows no wheel of vllm")
    return found


class Ranges(io.RawIOBase):
    """A file behind a URL, of which the parts are fetched that are read."""

    def __init__(self, url: str) -> None:
        self.url, self.place = url, 0
        with self._open("bytes=0-0") as answer:
            told = re.fullmatch(r"bytes 0-0/(\d+)", answer.headers.get("Content-Range", ""))
        if told is None:
            raise OSError("it sends no parts of files")
        self.size = int(told[1])

    def _open(self, part: str) -> Any:
        asked = urllib.request.Request(self.url, headers={"Range": part})
        return urllib.request.urlopen(asked, timeout=60)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        self.place = start + offset
        return self.place

    def readinto(self, buffer: Any) -> int:
        last = min(self.place + len(buffer), self.size) - 1
        if last < self.place:
            return 0
        with self._open(f"bytes={self.place}-{last}") as answer:
            data = answer.read()
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


def opened(version: str, link: str) -> zipfile.ZipFile:
    """A wheel, in parts or whole."""
    try:
        return zipfile.ZipFile(io.BufferedReader(Ranges(link), 1 << 18))
    except (OSError, ValueError) as error:  # of urllib too
        print(f"vLLM {version} is fetched whole: {error}", file=sys.stderr)
    pip("download", "-qq", "--no-deps", *TARGET, "-d", str(WHEELS), f"vllm=={version}")
    (path,) = WHEELS.glob(f"vllm-{version}-*.whl")
    return zipfile.ZipFile(path)


def reader(wheel: zipfile.ZipFile) -> Reader:
    names = set(wheel.namelist())
    return lambda path: wheel.read(path).decode() if path in names else None


def differences(before: list[Use], after: list[Use]) -> tuple[list[str], list[str]]:
    """What is wrong now or has another signature; and what else is not as it was."""
    known, now = ({use.name: use for use in uses} for uses in (before, after))
    wrong, other = [], []
    for name in sorted(known | now):
        old, new = known.get(name), now.get(name)
        if new is None and old is not None:
            wrong.append(f"gone: {name} (used by {old.by})")
        elif new is not None and new.problem and not (old and old.problem):
            wrong.append(f"broken: {name}: {new.problem} (used by {new.by})")
        elif new is not None and old is None:
            other.append(f"new: {name}{new.shape}, which {new.by} overrides or uses")
        elif old is not None and new is not None and old.shape != new.shape:
            wrong.append(f"changed: {name}{old.shape} is now {new.shape} (used by {new.by})")
        elif old is not None and new is not None and old.home != new.home:
            other.append(f"moved: {name} from {old.home} to {new.home}")
    return wrong, other


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tested")
    parser.add_argument("newest", nargs="?", default="")
    given = parser.parse_args()
    links = wheels()
    newest = given.newest or max(links, key=Version)
    missing = [version for version in (given.tested, newest) if version not in links]
    if missing:
        raise SystemExit(f"pip knows no wheel of vllm {missing[0]}")
    before, after = (plugin_uses(reader(opened(v, links[v]))) for v in (given.tested, newest))
    wrong, other = differences(before, after)
    print(f"vLLM {newest} beside {given.tested}, of {len(before)} names that the plugin uses:")
    print("\n".join(f"  {line}" for line in [*wrong, *other]) or "  nothing changed")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
