"""What this plugin uses of a vLLM."""

from __future__ import annotations

from pathlib import Path

from sparevlm.families import FAMILIES
from sparevlm.serving.names.found import Use
from sparevlm.serving.names.sources import Reader, Sources, folder, installed
from sparevlm.serving.names.uses import uses

_OURS = "sparevlm.serving"
_FOLDER = Path(__file__).parents[1]


def plugin_uses(vllm: Reader) -> list[Use]:
    """Each name, and what is wrong with it in this vLLM; none where our own source is not there."""
    files = sorted(path.stem for path in _FOLDER.glob("*.py"))
    modules = [_OURS if name == "__init__" else f"{_OURS}.{name}" for name in files]
    if not modules:
        return []
    readers = {
        "sparevlm": folder(_FOLDER.parents[1]),
        "vllm": vllm,
        "torch": installed("torch"),
    }
    served = {
        family.classes[0]: f"{_OURS}.models.{family.vllm}"
        for family in FAMILIES.values()
        if family.vllm
    }
    return uses(Sources(readers, whole=_OURS), modules, "vllm", served)
