"""Pruning for models of Hugging Face transformers."""

from sparevlm.hf.attach import attach
from sparevlm.hf.before import Handle
from sparevlm.hf.engine import ENGINE
from sparevlm.hf.families import FAMILIES, Family, UnsupportedModelError, family_facts
from sparevlm.hf.loading import load
from sparevlm.hf.prune import preview, prune_inputs
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
