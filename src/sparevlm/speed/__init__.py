"""Time and memory of a model with and without pruning; weights may be random."""

from sparevlm.speed.measure import Measured, measure
from sparevlm.speed.models import Subject, check_shape, subject
from sparevlm.speed.report import write_report
from sparevlm.speed.shapes import SHAPES

__all__ = ["SHAPES", "Measured", "Subject", "check_shape", "measure", "subject", "write_report"]
