"""The sample report's page: everything on it, nothing from elsewhere."""

from __future__ import annotations

import re

from dedup_storage.report.show.samples import html
from dedup_storage.sampling.definition import Sample, SampleSpec, StratumCount
from dedup_storage.sampling.summary import MetricEstimate, SampleReport, Weights, summarize


def _report() -> SampleReport:
    spec = SampleSpec.from_dict({"targets": {"*": 5}, "strata": [{"name": "country", "column": "country"}]})
    strata = (
        StratumCount(label="country=<b>DK", users=10, sampled=5, probability=0.5, requested=5),
        StratumCount(label="country=$\\x$ SE", users=50, sampled=5, probability=0.1, requested=5),
        StratumCount(label="country=NO", users=3, sampled=0, probability=0.0, requested=0),
    )
    sample = Sample(name="s", spec=spec, version=3, run_id="r", created_ms=0, strata=strata, table="sm_s", tag="t")
    metrics = (
        MetricEstimate(metric="label rate", estimate=0.2, standard_error=0.01, low=0.18, high=0.22, unweighted=0.3,
                       truth=0.21, covered=True),
        MetricEstimate(metric="requests per user", estimate=4, standard_error=0.5, low=3, high=5),
    )  # fmt: skip
    return SampleReport(
        summary=summarize("clicks", sample),
        created="2026-01-01 00:00 UTC",
        definition=spec.model_dump(mode="json", exclude_defaults=True),
        confidence=0.95,
        weights=Weights(least=2, mean=6, most=10, design_effect=1.44),
        metrics=metrics,
        planned_bytes=10,
        all_bytes=1000,
        read_bytes=5,
    )


def test_page_is_complete_and_needs_nothing_else() -> None:
    report = _report()
    page = html(report)
    assert page.count("<svg") == 2
    assert "&lt;b&gt;DK" in page
    assert "<b>DK" not in page
    # In the table and in the plot, where it is no formula.
    assert page.count("country=$\\x$ SE") == 2
    for text in ("0.18 to 0.22", "1.0%", "No user of country=NO", "truth"):
        assert text in page
    assert not re.search(r"""(src|href)=["']?http""", page)
    assert "<script" not in page


def test_summary_tells_effective_users_and_hints() -> None:
    summary = _report().summary
    # (5 * 2 + 5 * 10) ** 2 / (5 * 4 + 5 * 100)
    assert summary.effective_users == round(3600 / 520, 1)
    assert (summary.users, summary.population, summary.design) == (10, 63, "counts")
    assert [row.weight for row in summary.strata] == [2, 10, 0]
