"""Pruning methods, one a file; a file dropped in here is found by itself."""

import importlib
import pkgutil

from sparevlm.methods.agilepruner import AgilePruner
from sparevlm.methods.apet import ApET
from sparevlm.methods.average_pool import AveragePool
from sparevlm.methods.base import PruningMethod
from sparevlm.methods.cdpruner import CDPruner
from sparevlm.methods.dart import DART
from sparevlm.methods.dart_decoder import DARTDecoder
from sparevlm.methods.divprune import DivPrune
from sparevlm.methods.downsampled_image import DownsampledImage
from sparevlm.methods.fastervlm import FasterVLM
from sparevlm.methods.fastv import FastV
from sparevlm.methods.greedy_css import GreedyCSS
from sparevlm.methods.hawk import HAWK
from sparevlm.methods.hiprune import HiPrune
from sparevlm.methods.id_selection import IDSelection
from sparevlm.methods.in_decoder import DecoderMethod, LayerTokens
from sparevlm.methods.k_center import KCenter
from sparevlm.methods.largest_norm import LargestNorm
from sparevlm.methods.leverage_scores import LeverageScores
from sparevlm.methods.mmtok import MMTok
from sparevlm.methods.no_image import NoImage
from sparevlm.methods.picking import PickingMethod
from sparevlm.methods.prumerge import PruMerge, PruMergePlus
from sparevlm.methods.prunesid import PruneSID
from sparevlm.methods.pyramiddrop import PyramidDrop
from sparevlm.methods.random_tokens import RandomTokens
from sparevlm.methods.registry import (
    get_method,
    list_methods,
    method_class,
    read_method,
    works_with,
)
from sparevlm.methods.resprune import ResPrune
from sparevlm.methods.scope import SCOPE
from sparevlm.methods.spare import SPARE
from sparevlm.methods.spare_decoder import SPAREDecoder
from sparevlm.methods.sparsevlm import SparseVLM
from sparevlm.methods.staged import Staged
from sparevlm.methods.strong_rrqr import StrongRRQR
from sparevlm.methods.transprune import TransPrune
from sparevlm.methods.trim import TRIM
from sparevlm.methods.two_stage_css import TwoStageCSS
from sparevlm.methods.uniform_grid import UniformGrid
from sparevlm.methods.visionzip import VisionZip
from sparevlm.methods.vispruner import VisPruner
from sparevlm.methods.volume_sampling import VolumeSampling
from sparevlm.methods.zoo_prune import ZOOPrune

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "DART",
    "HAWK",
    "SCOPE",
    "SPARE",
    "TRIM",
    "AgilePruner",
    "ApET",
    "AveragePool",
    "CDPruner",
    "DARTDecoder",
    "DecoderMethod",
    "DivPrune",
    "DownsampledImage",
    "FastV",
    "FasterVLM",
    "GreedyCSS",
    "HiPrune",
    "IDSelection",
    "KCenter",
    "LargestNorm",
    "LayerTokens",
    "LeverageScores",
    "MMTok",
    "NoImage",
    "PickingMethod",
    "PruMerge",
    "PruMergePlus",
    "PruneSID",
    "PruningMethod",
    "PyramidDrop",
    "RandomTokens",
    "ResPrune",
    "SPAREDecoder",
    "SparseVLM",
    "Staged",
    "StrongRRQR",
    "TransPrune",
    "TwoStageCSS",
    "UniformGrid",
    "VisPruner",
    "VisionZip",
    "VolumeSampling",
    "ZOOPrune",
    "get_method",
    "list_methods",
    "method_class",
    "read_method",
    "works_with",
]
