"""The compiler's passes, one a file, each usable alone; nmcompile.transform lists their order."""

from nmcompile.passes.analyze_cost import analyze_cost
from nmcompile.passes.assign_patterns import assign_patterns
from nmcompile.passes.drop_inference_noops import drop_inference_noops
from nmcompile.passes.fold_batch_norm import fold_batch_norm
from nmcompile.passes.fold_constants import fold_constants
from nmcompile.passes.measure_latency import measure_latency
from nmcompile.passes.measure_sensitivity import measure_sensitivity
from nmcompile.passes.prune import prune

__all__ = [
    "analyze_cost",
    "assign_patterns",
    "drop_inference_noops",
    "fold_batch_norm",
    "fold_constants",
    "measure_latency",
    "measure_sensitivity",
    "prune",
]
