"""What is shipped: the built wheel and sdist, their licences, and the public names."""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import sparevlm
from sparevlm.methods import list_methods, method_class

TOP = Path(__file__).parents[1]

# What users import. A name may be added here; one may go only after a minor version that warned.
PUBLIC = """
    AgilePruner ApET AttentionOf AveragePool CDPruner DART DARTDecoder DecoderMethod DivPrune
    DownsampledImage FastV FasterVLM GreedyCSS HAWK Handle HiPrune IDSelection KCenter LargestNorm
    LayerTokens LeverageScores MMTok NoImage PickingMethod Projector PruMerge PruMergePlus
    PruneSID PruningMethod PyramidDrop Query RandomTokens Reduction ResPrune Residual SCOPE SPARE
    SPAREDecoder Selection SparseVLM Staged StrongRRQR TRIM TransPrune TwoStageCSS UniformGrid
    VisPruner VisionZip VisualTokens VolumeSampling ZOOPrune __version__ attach get_method
    greedy_css list_methods load preview prune_inputs reconstruction_curve reconstruction_error
    select svd_bound
""".split()


def test_public_names_are_frozen() -> None:
    assert sorted(sparevlm.__all__) == sorted(PUBLIC)
    assert len(set(PUBLIC)) == len(PUBLIC)
    for name in PUBLIC:
        assert getattr(sparevlm, name) is not None
    for name in list_methods(inside=None):
        assert method_class(name).__name__ in PUBLIC


def test_every_public_name_is_described() -> None:
    for name in set(PUBLIC) - {"__version__"}:
        words = getattr(sparevlm, name).__doc__
        assert words and not words.startswith(f"{name}("), name  # dataclasses make up the latter


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """Wheel and sdist."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(TOP)],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def test_wheel(built) -> None:
    wheel, _ = built
    assert wheel.stat().st_size < 40 * 2**20
    with zipfile.ZipFile(wheel) as inside:
        names = set(inside.namelist())
    source = TOP / "src"
    kept = [p for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    expected = {str(p.relative_to(source)) for p in kept if p.suffix not in (".pyc", ".pyi")}
    assert {name for name in names if ".dist-info/" not in name} == expected
    for name in (
        "py.typed",
        "pocket/weights/model.safetensors",
        "pocket/natural/model.safetensors",
        "demo/page.js",
        "demo/page.css",
    ):
        assert f"sparevlm/{name}" in names
    pickled = (".bin", ".pt", ".pth", ".pkl")
    assert not [name for name in names if name.endswith(pickled)]


def test_metadata(built) -> None:
    with zipfile.ZipFile(built[0]) as inside:
        (place,) = (name for name in inside.namelist() if name.endswith(".dist-info/METADATA"))
        facts = email.message_from_bytes(inside.read(place))
        names = inside.namelist()
    assert facts["License-Expression"] == "Apache-2.0 AND OFL-1.1"
    for name in facts.get_all("License-File"):
        assert any(n.endswith(f".dist-info/licenses/{name}") for n in names), name
    extras = set(facts.get_all("Provides-Extra"))
    assert {"bench", "demo", "vllm"} <= extras
    major, minor, patch = facts["Version"].split(".")
    assert (major + minor + patch).isdecimal()
    assert f"[{facts['Version']}]" in (TOP / "CHANGELOG.md").read_text() or (
        f"To be released as {facts['Version']}." in (TOP / "CHANGELOG.md").read_text()
    )


def test_sdist(built) -> None:
    """Everything that building and testing it anew needs."""
    with tarfile.open(built[1]) as inside:
        names = {name.partition("/")[2] for name in inside.getnames()}
    tracked = {"pyproject.toml", "README.md", "LICENSE", "SECURITY.md", "Makefile", "mkdocs.yml"}
    tracked |= {"tests/test_package.py", "docs/index.md", "examples/first_answer.py"}
    made_of = ("constraints*.txt", "findings/*", "tests/golden_cases/*")
    tracked |= {str(p.relative_to(TOP)) for pattern in made_of for p in TOP.glob(pattern)}
    assert tracked <= names
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    assert set(project["license-files"]) <= names
