"""What is generated is up to date."""

from __future__ import annotations

import re
import runpy
import sys
import types
from pathlib import Path

import torch

from sparevlm.methods import get_method, list_methods
from sparevlm.methods.base import _REGISTRY
from sparevlm.tokens import VisualTokens

DOCS = Path(__file__).parents[1] / "docs"


def test_methods():
    made = runpy.run_path(str(DOCS / "make.py"))["text"]()
    assert (DOCS / "methods.md").read_text() == made, "run make docs"
    for name in list_methods():
        assert f"\n## {name}\n" in made


def test_models():
    made = runpy.run_path(str(DOCS / "make.py"))["models_text"]()
    assert (DOCS / "models.md").read_text() == made, "run make docs"


def test_the_method_of_contributing(monkeypatch):
    text = (DOCS.parent / "CONTRIBUTING.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, flags=re.S).group(1)
    try:
        module = types.ModuleType("first_tokens")
        monkeypatch.setitem(sys.modules, "first_tokens", module)
        exec(compile(code, "first_tokens.py", "exec"), module.__dict__)
        features = torch.randn(9, 4)
        candidates = torch.arange(9) % 3 != 0
        found = get_method("first", 4).reduce(VisualTokens(features, candidates=candidates))
        assert found.indices.tolist() == [1, 2, 4, 5]
    finally:
        _REGISTRY.pop("first", None)
