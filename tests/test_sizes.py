"""Which checkpoints fit into how much memory: what is written down is what configurations say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.checkpoints import CONFIGS, computed
from sparevlm import cli
from sparevlm.commands import listings
from sparevlm.commands.sizes import SIZES, read_memory
from sparevlm.families import FAMILIES
from tests.test_cli import listed

USING = (Path(__file__).parents[1] / "docs" / "using.md").read_text()
# As their model cards, and the headers of their files, count them.
PUBLISHED = {
    "HuggingFaceTB/SmolVLM2-256M-Video-Instruct": 256_484_928,
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": 2_246_784_880,
    "Qwen/Qwen2-VL-2B-Instruct": 2_208_985_600,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
}
# Gigabytes by `python -m bench.checkpoints --measure NAME --dtype DTYPE`, as in docs/using.md.
MEASURED = {
    ("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", 4): 2.13,
    ("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", 2): 1.49,
    ("llava-hf/llava-interleave-qwen-0.5b-hf", 4): 4.39,
    ("llava-hf/llava-interleave-qwen-0.5b-hf", 2): 2.44,
}


def test_sizes_are_of_checkpoints_that_are_listed():
    hub = {name for family in FAMILIES.values() for name in family.hub}
    assert set(SIZES) <= hub and set(SIZES) == set(CONFIGS)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_what_configurations_say(name):
    assert computed(CONFIGS[name]) == SIZES[name]


def test_parameters_are_as_published():
    assert {name: SIZES[name].parameters for name in PUBLISHED} == PUBLISHED


@pytest.mark.parametrize(("name", "width"), MEASURED)
def test_memory_is_near_what_was_measured(name, width):
    """Not less, and at most an eighth more."""
    computed_ = SIZES[name].memory(width) / 1e9
    assert 1 <= computed_ / MEASURED[name, width] < 1.125
    (row,) = [x for x in USING.splitlines() if x.startswith(f"| {name} |")]
    assert f"| {MEASURED[name, width]:.2f} GB | {computed_:.2f} GB |" in row


@pytest.mark.parametrize(
    ("text", "count"),
    [("8GB", 8 * 10**9), ("8", 8 * 10**9), ("1.5 gb", 15 * 10**8), ("512MB", 512 * 10**6),
     ("4GiB", 2**32)],
)  # fmt: skip
def test_amounts(text, count):
    assert read_memory(text) == count


@pytest.mark.parametrize("text", ["", "much", "8 apples", "-1GB", "0", "8 GB GB"])
def test_what_is_no_amount(text, capsys):
    assert cli.main(["models", f"--memory={text}"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "give an amount of memory, such as 8GB" in err


def test_what_fits(capsys):
    assert cli.main(["models", "--memory", "4GB"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= listings.WIDTH
    rows = {line.split()[0]: line for line in lines[1:] if "/" in line.split("  ")[0]}
    small = rows["HuggingFaceTB/SmolVLM2-256M-Video-Instruct"]
    assert "0.26 B" in small and small.endswith("any --dtype")
    assert rows["llava-hf/llava-interleave-qwen-0.5b-hf"].endswith("--dtype bfloat16")
    assert "Qwen/Qwen2.5-VL-3B-Instruct" not in rows
    assert cli.main(["models", "--memory", "4GB", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {facts["checkpoint"] for facts in told} == set(rows)
    for facts in told:
        assert facts["bytes_bfloat16"] <= 4 * 10**9
        assert ("float32" in facts["fits"]) == (facts["bytes_float32"] <= 4 * 10**9)


def test_what_fits_of_one_family(capsys):
    assert cli.main(["models", "smolvlm", "--memory", "100GB"]) == 0
    out = capsys.readouterr().out
    assert "SmolVLM2-2.2B-Instruct" in out and "Qwen" not in out
    assert cli.main(["models", "kimi_k25", "--memory", "100GB"]) == 0
    assert "no size is known" in capsys.readouterr().out
    assert cli.main(["models", "--memory", "1GB"]) == 0
    out = capsys.readouterr().out
    assert "none fits into 1.0 GB" in out and "SmolVLM2-256M" in out
    assert cli.main(["models", "smolvlm"]) == 0
    assert "SmolVLM2-256M-Video-Instruct: 2." in capsys.readouterr().out


def test_it_imports_no_torch():
    said, imported = listed("models", "--memory", "8GB")
    assert imported == [] and "SmolVLM2-256M" in said
