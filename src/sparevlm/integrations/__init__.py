"""Adapters to other projects; none of them is needed to import sparevlm."""
