"""The commands of ``sparevlm``, one file each; `sparevlm.cli` joins them."""
