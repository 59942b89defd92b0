"""How often `prune_inputs` lets the host wait for the device, counted without one; prints JSON.

    python -m tests.hf.waits llava_next,pocket 1 4 1x4   # prompts, or prompts x pictures of each

Model and inputs lie on a pretended device: tensors that compute on the CPU, refuse to be mixed with
the CPU's, and count each value that the host asks for and each copy that is waited for.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

import sparevlm


class Module(_DummyBackendModule):
    """What autocast asks of a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return []


_setup_privateuseone_for_python_backend("pretended", Module())
DEVICE = torch.device("pretended", 0)
PACKAGES = [Path(package.__file__).parent for package in (sparevlm, transformers)]
# Their results, or the sizes of these, must be known to the host.
ASKED = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim"}
# Copy what lies on the CPU by themselves.
COPIES = {"_to_copy", "copy_", "index", "index_put_", "_index_put_impl_"}


class There(torch.Tensor):
    """A tensor of the pretended device."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> There:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=DEVICE,
        )  # fmt: skip
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError("only inside `Waits`")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self) -> str:
        return f"There({self.held})"


class Factories(TorchFunctionMode):
    """`torch.tensor`, which looks for no other mode, copies to the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], torch.Tensor):
            device = kwargs.pop("device", None)
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class Waits(TorchDispatchMode):
    """Counts waits by the line of the innermost function of a package."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        there = any(isinstance(x, There) for x in given)
        mixed = there and any(not isinstance(x, There) and x.ndim for x in given)
        if mixed and name not in COPIES:
            raise RuntimeError(f"{name}: tensors of both devices")
        device = kwargs.get("device")
        if device is not None:
            kwargs["device"] = "cpu"
            goes = torch.device(device).type == DEVICE.type
        else:
            goes = there
        if name == "copy_":
            goes = isinstance(args[0], There)
        crosses = name == "_to_copy" and bool(given) and there != goes
        free = kwargs.get("non_blocking", False) and goes
        masks = "index" in name and any(
            isinstance(x, There) and x.dtype == torch.bool for x in tree_leaves(args[1:2])
        )
        if (there and name in ASKED) or masks or ((mixed or crosses) and not free):
            self.of[where()] += 1

        def here(x: Any) -> Any:
            return x.held if isinstance(x, There) else x

        found = func(*tree_map(here, args), **tree_map(here, kwargs))
        if name.endswith("_") and isinstance(args[0], There):
            return args[0]
        return tree_map(lambda x: There(x) if goes and isinstance(x, torch.Tensor) else x, found)


def where() -> str:
    """The innermost line of sparevlm, or of what it called."""
    for frame in reversed(traceback.extract_stack()):
        file = Path(frame.filename)
        for package in PACKAGES:
            if file.is_relative_to(package):
                inside = file.relative_to(package.parent).as_posix()
                return f"{inside}:{frame.lineno} {frame.line}"
    return "elsewhere"


def waits(name: str, prompts: int, pictures: int) -> Counter[str]:
    """Of one call of `prune_inputs` with SPARE, guided by the language model's embeddings."""
    from sparevlm import SPARE, load
    from tests.families import BUILDERS
    from tests.families.common import Made

    if name == "pocket":
        family = Made("pocket", *load("pocket", dtype=torch.float32, device="cpu"))
    else:
        family = BUILDERS[name]()
    words = f"user : {'<image> ' * pictures} what color is the star ? assistant :"
    inputs = family.inputs(*[words] * prompts)
    given = {"relevance": "llm", "tokenizer": family.processor.tokenizer}
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    family.model.requires_grad_(False)
    with torch.no_grad(), Waits() as seen, Factories():
        family.model._apply(lambda weight: There(weight.data))
        inputs = {k: There(v) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
        seen.of.clear()
        shorter = SPARE(5).prune_inputs(family.model, inputs, **given)
    assert isinstance(shorter["input_ids"], There)
    assert shorter["input_ids"].shape[1] < inputs["input_ids"].shape[1]
    return seen.of


def main(names: str, *cases: str) -> None:
    """For each name one object a case: waits by line."""
    sizes = [(*map(int, case.split("x")), 1)[:2] for case in cases]
    print(json.dumps({n: [waits(n, *size) for size in sizes] for n in names.split(",")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
