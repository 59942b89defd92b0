"""Training-free visual token pruning for vision-language models.

Names are imported when first used: `import sparevlm` and `sparevlm --help` do not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparevlm.budgets import Residual
    from sparevlm.encoder import AttentionOf, Projector
    from sparevlm.hf import Handle, attach, load, preview, prune_inputs
    from sparevlm.methods import (
        DART,
        HAWK,
        SCOPE,
        SPARE,
        TRIM,
        AgilePruner,
        ApET,
        AveragePool,
        CDPruner,
        DARTDecoder,
        DecoderMethod,
        DivPrune,
        DownsampledImage,
        FasterVLM,
        FastV,
        GreedyCSS,
        HiPrune,
        IDSelection,
        KCenter,
        LargestNorm,
        LayerTokens,
        LeverageScores,
        MMTok,
        NoImage,
        PickingMethod,
        PruMerge,
        PruMergePlus,
        PruneSID,
        PruningMethod,
        PyramidDrop,
        RandomTokens,
        ResPrune,
        SPAREDecoder,
        SparseVLM,
        Staged,
        StrongRRQR,
        TransPrune,
        TwoStageCSS,
        UniformGrid,
        VisionZip,
        VisPruner,
        VolumeSampling,
        ZOOPrune,
        get_method,
        list_methods,
    )
    from sparevlm.selection import (
        Selection,
        greedy_css,
        reconstruction_curve,
        reconstruction_error,
        select,
        svd_bound,
    )
    from sparevlm.tokens import Query, Reduction, VisualTokens

    __version__: str

_HOME = {
    "AttentionOf": "encoder",
    "Projector": "encoder",
    "DecoderMethod": "methods",
    "Handle": "hf",
    "LayerTokens": "methods",
    "PickingMethod": "methods",
    "PruningMethod": "methods",
    "Query": "tokens",
    "Reduction": "tokens",
    "Residual": "budgets",
    "Selection": "selection",
    "Staged": "methods",
    "VisualTokens": "tokens",
    "attach": "hf",
    "get_method": "methods",
    "greedy_css": "selection",
    "list_methods": "methods",
    "load": "hf",
    "preview": "hf",
    "prune_inputs": "hf",
    "reconstruction_curve": "selection",
    "reconstruction_error": "selection",
    "select": "selection",
    "svd_bound": "selection",
}

__all__ = [
    "DART",
    "HAWK",
    "SCOPE",
    "SPARE",
    "TRIM",
    "AgilePruner",
    "ApET",
    "AttentionOf",
    "AveragePool",
    "CDPruner",
    "DARTDecoder",
    "DecoderMethod",
    "DivPrune",
    "DownsampledImage",
    "FastV",
    "FasterVLM",
    "GreedyCSS",
    "Handle",
    "HiPrune",
    "IDSelection",
    "KCenter",
    "LargestNorm",
    "LayerTokens",
    "LeverageScores",
    "MMTok",
    "NoImage",
    "PickingMethod",
    "Projector",
    "PruMerge",
    "PruMergePlus",
    "PruneSID",
    "PruningMethod",
    "PyramidDrop",
    "Query",
    "RandomTokens",
    "Reduction",
    "ResPrune",
    "Residual",
    "SPAREDecoder",
    "Selection",
    "SparseVLM",
    "Staged",
    "StrongRRQR",
    "TransPrune",
    "TwoStageCSS",
    "UniformGrid",
    "VisPruner",
    "VisionZip",
    "VisualTokens",
    "VolumeSampling",
    "ZOOPrune",
    "__version__",
    "attach",
    "get_method",
    "greedy_css",
    "list_methods",
    "load",
    "preview",
    "prune_inputs",
    "reconstruction_curve",
    "reconstruction_error",
    "select",
    "svd_bound",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name[:1].isupper():  # a method's class; other names are submodules or mistakes
        value = _method(name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:  # run from a source tree
        return "0+unknown"


def _method(name: str) -> Any:
    methods = import_module(f"{__name__}.methods")
    for known in methods.list_methods(
        inside=None
    ):  # a method that was only dropped in is found too
        cls = methods.method_class(known)
        if cls.__name__ == name:
            return cls
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}: methods are "
        f"{', '.join(methods.list_methods(inside=None))}"
    )
