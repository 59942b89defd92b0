"""Pruning for models of Hugging Face transformers."""

from sparevlm.families import FAMILIES, Family, family_facts
from sparevlm.hf.attach import attach
from sparevlm.hf.before import Handle
from sparevlm.hf.engine import ENGINE
from sparevlm.hf.loading import load
from sparevlm.hf.prune import preview, prune_inputs
from sparevlm.hf.supported import UnsupportedModelError
from sparevlm.report import ImageReport

__all__ = [
    "ENGINE",
    "FAMILIES",
    "Family",
    "Handle",
    "ImageReport",
    "UnsupportedModelError",
    "attach",
    "family_facts",
    "load",
    "preview",
    "prune_inputs",
]
