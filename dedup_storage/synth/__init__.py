"""Realistic synthetic training logs with known statistics: any file of any log is a pure function of its parameters.

params = SynthParams.preset("small", seed=7)
log = write_log(params, "/data/raw")       # or dedup_storage.sources.generate.generate on a cluster
params.log_schema()                        # what its columns mean
statistics(params)                         # what is known of it
"""

from dedup_storage.synth.files import GeneratedLog, write_log
from dedup_storage.synth.params import PRESETS, Distribution, History, SynthLayout, SynthParams
from dedup_storage.synth.statistics import SynthStatistics, statistics
from dedup_storage.synth.tables import arrow_schema, batches

__all__ = [
    "PRESETS",
    "Distribution",
    "GeneratedLog",
    "History",
    "SynthLayout",
    "SynthParams",
    "SynthStatistics",
    "arrow_schema",
    "batches",
    "statistics",
    "write_log",
]
