"""Model arguments of lmms-eval, as text or as numbers."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from sparevlm import SPARE, DivPrune
from sparevlm.integrations.arguments import read_plan


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ({"keep": 64}, SPARE(64)),
        ({"keep": "64"}, SPARE(64)),
        ({"keep": 0.25}, SPARE(0.25)),
        ({"keep": "25%"}, SPARE(0.25)),
        ({"method": "divprune", "keep": 9}, DivPrune(9)),
        (
            {"keep": 9, "guidance": "normal", "strength": 1, "per": "prompt"},
            SPARE(9, guidance="normal", strength=1.0, per="prompt"),
        ),
        ({"keep": 9, "positions": "compact", "normalize": True},
         SPARE(9, positions="compact", normalize=True)),
    ],
)  # fmt: skip
def test_methods(given, method):
    plan = read_plan(**given)
    assert plan.method == method and plan.pretrained == "pocket" and plan.relevance == "auto"


def test_the_unpruned_model():
    plan = read_plan(method="none", pretrained="some/model", dtype="bfloat16", device="cpu")
    assert plan.method is None
    assert (plan.pretrained, plan.dtype, plan.device) == ("some/model", "bfloat16", "cpu")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give keep=64"),
        ({"keep": 0}, "keep=0"),
        ({"keep": "many"}, "keep='many'"),
        (
            {"keep": 9, "method": "bogus"},
            "no method is named 'bogus': there are none, agilepruner, apet",
        ),
        ({"keep": 9, "method": "none"}, "prunes nothing, and keep was given"),
        ({"keep": 9, "strenght": 1}, "no argument is named 'strenght': spare takes pretrained"),
        ({"keep": 9, "strength": 2}, "strength"),
        ({"keep": 9, "relevance": "bert"}, "give one of auto, clip, llm, none"),
        ({"keep": 9, "guidance": "pro"}, "guidance"),
    ],
)
def test_wrong_arguments(given, said):
    with pytest.raises(ValueError) as error:
        read_plan(**given)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_naming_the_model_imports_nothing_heavy():
    code = (
        "import sys; import sparevlm.integrations.lmms as m; assert callable(m.manifest);"
        "print([n for n in ('torch', 'transformers', 'lmms_eval') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_entry_point():
    found = [point for point in entry_points(group="lmms_eval.models") if point.name == "sparevlm"]
    if not found:
        pytest.skip("sparevlm is not installed, only on the path")
    assert found[0].value == "sparevlm.integrations.lmms:manifest"
