"""Models inside wrappers of other libraries: reached where that is right, named where it is not."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import nn

from sparevlm.warning import warn

_CALLS = (0, 21)  # peft, from which on a tuner calls its model and not the model's forward


def unwrapped(model: Any) -> Any:
    """The model that a wrapper calls, hooks and all; the model itself where there is none.

    Parameters
    ----------
    model
        A model, or a peft model, a tuner of peft, or a model in DistributedDataParallel.

    Raises
    ------
    ValueError
        If the wrapper would not run hooks, saying what to attach to.
    """
    kind, where = type(model).__name__, type(model).__module__
    if isinstance(model, nn.DataParallel):
        raise ValueError(
            "DataParallel runs copies of the model, which a method cannot be attached to: attach "
            "to its .module and use DistributedDataParallel, one process for each device"
        )
    if where.startswith("torch._dynamo") and hasattr(model, "_orig_mod"):
        raise ValueError(
            f"{kind} is a model after torch.compile, which runs what was compiled before: attach "
            "to the model first (this one's ._orig_mod) and compile it then, or prune with "
            "prune_inputs and pass what it gives"
        )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    if where.startswith("peft.") and hasattr(model, "get_base_model"):
        return unwrapped(model.get_base_model())
    if where.startswith("peft.") and hasattr(model, "peft_config"):
        return unwrapped(model.model)
    return model


def check_adapters(model: Any) -> None:
    """Warn where adapters of an older peft go round the hooks of a model."""
    by_peft = hasattr(model, "peft_config") and not getattr(model, "_hf_peft_config_loaded", False)
    if not by_peft:
        return
    try:
        installed = version("peft")
    except PackageNotFoundError:
        return
    if tuple(int(part) for part in re.findall(r"\d+", installed)[:2]) < _CALLS:
        warn(
            f"peft {installed} calls the forward of its base model past all hooks where the "
            "adapter has a task type: generate prunes, and calls of the peft model do not; "
            "install peft >= 0.21, or call get_base_model()"
        )
