"""Measure training and inference throughput, latency and memory of networks in interleaved rounds.

Rounds alternate (A B A B…), so that a change of the machine's speed affects all networks alike. Each network runs in
processes of its own.
"""

from ablations.bench.measure import Bench, Measurement, measure
from ablations.bench.models import BenchmarkedModel, Setting, benchmarked_models
from ablations.bench.results import for_study, ratios, subtitle, table_rows, with_other_settings
from ablations.bench.workers import ModelRunner

__all__ = [
    "Bench",
    "BenchmarkedModel",
    "Measurement",
    "ModelRunner",
    "Setting",
    "benchmarked_models",
    "for_study",
    "measure",
    "ratios",
    "subtitle",
    "table_rows",
    "with_other_settings",
]
