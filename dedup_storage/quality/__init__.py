"""The quality gate: staged data is audited before it is published.

Needs: Spark frames of what was staged, Great Expectations.
Gives: a ``Verdict``, and data docs that show no value of any row.
May import: ``sources``, ``lake`` and what lies below them.
"""

from dedup_storage.quality.facts import with_derived
from dedup_storage.quality.gate import check_gate_settings, run_gate, warm_up
from dedup_storage.quality.model import CheckResult, GateFacts, Verdict, require

__all__ = [
    "CheckResult",
    "GateFacts",
    "Verdict",
    "check_gate_settings",
    "require",
    "run_gate",
    "warm_up",
    "with_derived",
]
