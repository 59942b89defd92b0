"""Accuracy of models with and without pruning: tasks, the loop, statistics and a report."""

from sparevlm.evaluation.bench import bench
from sparevlm.evaluation.gallery import Gallery, make_gallery
from sparevlm.evaluation.loop import Answered, Setting, make_settings, run
from sparevlm.evaluation.report import results, write_report
from sparevlm.evaluation.tasks import Item, make_items, pocket_items, read_items

__all__ = [
    "Answered",
    "Gallery",
    "Item",
    "Setting",
    "bench",
    "make_gallery",
    "make_items",
    "make_settings",
    "pocket_items",
    "read_items",
    "results",
    "run",
    "write_report",
]
