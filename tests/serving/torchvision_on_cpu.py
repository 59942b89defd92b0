"""Lets PyPI's torchvision, a CUDA build, be imported beside a CPU build of torch.

Its operators do not load there, and it stops where it describes two of them. They are declared
first, and still cannot be called. `make .venv-vllm` puts this file into that environment, with a
.pth file that imports it in every process.
"""

import sys
from importlib.abc import MetaPathFinder

_DECLARED = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_held = []  # a library that is collected takes its operators away


class _Declare(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator, schema in _DECLARED.items():
                if not hasattr(torch.ops.torchvision, operator):
                    library.define(operator + schema)
            _held.append(library)
        return None


sys.meta_path.insert(0, _Declare())
