"""Tiny random models of every family with their real processors, built without any download."""

from tests.families.onedim import BUILDERS

__all__ = ["BUILDERS"]
