"""Import torchvision, also where a CUDA build of it sits beside a CPU-only torch.

The package index serves one torchvision wheel, built for CUDA. Beside a CPU build of torch its compiled operators do not
load, and `import torchvision` stops with "operator torchvision::nms does not exist", although data sets, transforms and
models need none of them. Declaring the operators' names lets the import pass; calling one still fails.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType

import torch

# Every operator that torchvision's _meta_registrations.py registers a fake implementation for.
_OPERATORS = (
    "nms", "qnms", "roi_align", "qroi_align", "_roi_align_backward", "ps_roi_align", "_ps_roi_align_backward", "roi_pool",
    "_roi_pool_backward", "ps_roi_pool", "_ps_roi_pool_backward", "deform_conv2d", "_deform_conv2d_backward",
)  # fmt: skip


def import_torchvision() -> ModuleType:
    """Return the torchvision package, declaring its operators first where only that stands in the way.

    A failure other than a missing torchvision operator beside a CPU build of torch passes through unchanged.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        cpu_build = torch.version.cuda is None and torch.version.hip is None
        if not cpu_build or "operator torchvision::" not in str(error):
            raise
    for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    for name in _OPERATORS:
        torch.library.define(f"torchvision::{name}", "() -> ()")
    module = importlib.import_module("torchvision")
    warnings.warn(
        "this torchvision was built for CUDA and torch was not: data sets, transforms and models work, compiled "
        "operators (nms, roi_align, ...) do not; a matching build is on PyTorch's CPU package index",
        RuntimeWarning,
        stacklevel=2,
    )
    return module
