"""PyTorch training steps become training graphs; the only place that imports torch."""

from worklode.capture.api import capture, capture_module
from worklode.capture.options import CaptureOptions
from worklode.capture.workload import Workload

__all__ = ["CaptureOptions", "Workload", "capture", "capture_module"]
