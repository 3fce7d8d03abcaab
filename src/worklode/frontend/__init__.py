"""PyTorch training steps become training graphs; the only place that imports torch."""

from worklode.frontend.api import capture, capture_module
from worklode.frontend.options import CaptureOptions
from worklode.frontend.workload import Workload

__all__ = ["CaptureOptions", "Workload", "capture", "capture_module"]
