"""Loading a model and its processor by name."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from sparevlm.bars import loading_bars

if TYPE_CHECKING:
    import transformers

    class PreTrainedModel(transformers.PreTrainedModel, transformers.GenerationMixin):
        """As every class that is loaded here: one that also generates."""

    class ProcessorMixin(transformers.ProcessorMixin):
        """transformers' own says that a chat template gives a str, whatever it is asked for."""

        def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
            """See `transformers.ProcessorMixin.apply_chat_template`."""


POCKET = Path(__file__).parents[1] / "pocket" / "weights"
SHIPPED = {"pocket": POCKET, "pocket-natural": POCKET.with_name("natural")}
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


def load(
    name: str = "pocket", *, dtype: torch.dtype | str | None = None, device: str | None = None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a vision-language model and its processor.

    Weights come from safetensors alone, and no remote code is run. Bars of progress are for a
    terminal or a notebook, and for models that do not ship with sparevlm.

    Parameters
    ----------
    name : str
        "pocket" or "pocket-natural" for those shipped with sparevlm (the same model, and its
        successor with features more like those of towers over photographs); else a directory or a
        hub name.
    dtype : torch.dtype, str or None
        As `from_pretrained` takes it; None: float32 for a shipped model, else the checkpoint's on
        an accelerator and float32 on a CPU.
    device : str or None
        Where to put it; None: an accelerator if there is one.

    Returns
    -------
    model : transformers.PreTrainedModel
        In evaluation mode.
    processor : transformers.ProcessorMixin

    Raises
    ------
    ValueError
        If there is no such model, no weights or no processor in it, or its family is not supported.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    shipped = name in SHIPPED
    place = SHIPPED[name] if shipped else Path(name).expanduser()
    local = shipped or place.is_dir()
    if not local and (place.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise ValueError(f"there is no directory {name}: give the directory of a saved model")
    if local:
        _check_folder(place, name)
    if device is None:
        accelerator = torch.accelerator.is_available() and torch.accelerator.current_accelerator()
        device = accelerator.type if accelerator else "cpu"
    if dtype is None:
        dtype = torch.float32 if shipped or device == "cpu" else "auto"
    source = str(place) if local else name
    try:
        with loading_bars(not shipped):
            model = AutoModelForImageTextToText.from_pretrained(
                source, dtype=dtype, use_safetensors=True
            )
            processor = AutoProcessor.from_pretrained(source)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = textwrap.shorten(str(error), 300, placeholder=" ...")
        hint = "give a model directory, a hub name, or pocket"
        raise ValueError(f"{name} cannot be loaded: {hint} ({reason})") from error
    return model.to(device).eval(), processor


def _check_folder(place: Path, name: str) -> None:
    if not (place / "config.json").is_file():
        raise ValueError(f"{name} holds no config.json: give the directory of a saved model")
    if not any(any(place.glob(pattern)) for pattern in _WEIGHTS):
        raise ValueError(f"{name} holds no weights (*.safetensors): save the model there first")
