"""Dropping visual tokens between layers of the language model, on stock transformers."""

from sparevlm.hf.decoder.inside import Inside, check_decoder

__all__ = ["Inside", "check_decoder"]
