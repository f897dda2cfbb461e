"""A sample as a dataset of its own, weights as columns."""

from __future__ import annotations

from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.read import frames as read
from dedup_storage.dataset.samples.frames import SampledFrames
from dedup_storage.dataset.write.create import create_dataset
from dedup_storage.dataset.write.run import write_log
from dedup_storage.dataset.write.summary import WriteSummary
from dedup_storage.errors import UsageError
from dedup_storage.lake.requests import Request
from dedup_storage.sampling.definition import Sample
from dedup_storage.sampling.stored import IMPRESSION_WEIGHT, REQUEST_WEIGHT
from dedup_storage.schema import Grain, LogSchema
from dedup_storage.sources.raw import RawLog

__all__ = ["materialise_sample"]


def materialise_sample(
    handle: Handle,
    sample: Sample,
    target: str,
    *,
    version: int,
    run_id: str,
    gate: bool = True,
    dry_run: bool = False,
) -> WriteSummary:
    """Write a sample's rows into a new dataset of the same layout and segments.

    It has the columns ``request_weight`` and ``impression_weight`` beside the log's own, and keeps positions, so that
    its impressions can be found in the dataset they come from. Running it again for the same version changes nothing,
    and neither does a dry run, which counts them.

    Raises:
        UsageError: the target is the dataset itself, or a column has a weight's name.
    """
    if target == handle.name:
        raise UsageError("a sample cannot be written into its own dataset", fix="Choose another name.")
    frames = SampledFrames(handle, sample, version)
    version, spec = frames.version, frames.spec
    for name in (REQUEST_WEIGHT, IMPRESSION_WEIGHT):
        if name in spec.source_columns:
            raise UsageError(
                f"the dataset {handle.name} has a column {name} already: it is a sample itself",
                fix="Sample the dataset that it comes from.",
            )
    requests, impressions = read.requests(handle, version), read.impressions(handle, version)
    shown = dict.fromkeys(requests.columns, Grain.REQUEST) | dict.fromkeys(impressions.columns, Grain.IMPRESSION)
    keys = set(spec.request_key)
    grains = {c: g for c, g in shown.items() if c not in keys and c != spec.position_column}
    own = spec.schema_.of_standard_rows().model_copy(update={"position": spec.position_column, "candidates": {}})
    schema: LogSchema = own.with_grains({**grains, REQUEST_WEIGHT: Grain.REQUEST, IMPRESSION_WEIGHT: Grain.IMPRESSION})
    raw = RawLog.from_frame(frames.requests(requests), schema, frames.impressions(impressions))
    made = create_dataset(
        handle.spark, handle.settings, target, schema, raw,
        layout=spec.layout, date_grain=spec.date_grain, buckets=spec.buckets, epoch_grain=spec.told_epochs,
        dry_run=dry_run,
    )  # fmt: skip
    # The version and the sample's record decide the rows, which need not be looked at.
    asked = Request.of("write", log=[handle.name, version, sample.fingerprint])
    return write_log(made, raw, run_id=run_id, gate=gate, request=asked, dry_run=dry_run)
