"""Run events in OpenLineage's own classes. What is told is names, numbers and types; no value, no text of an error."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from typing import cast

from openlineage.client import event_v2 as ol
from openlineage.client.facet_v2 import (
    DatasetFacet,
    JobFacet,
    OutputDatasetFacet,
    RunFacet,
    column_lineage_dataset,
    dataset_version_dataset,
    error_message_run,
    job_type_job,
    lifecycle_state_change_dataset,
    output_statistics_output_dataset,
    parent_run,
    schema_dataset,
    symlinks_dataset,
)
from openlineage.client.uuid import generate_new_uuid

from dedup_storage.lineage.model import Account, ColumnUse, Product, Source, State

__all__ = ["PARENT", "RUN_FACET", "new_run", "run_event"]

# What made an event; a name, since the toolkit has no address of its own.
_PRODUCER = "urn:dedup-storage:lineage"
# The toolkit's own facet of a run: its names and versions.
RUN_FACET = "dedupStorage_run"
# Where a scheduler says which run of its own started this one: namespace, job and run id, joined by slashes.
PARENT = "OPENLINEAGE_PARENT_ID"
_PARENT_ID = re.compile(r"(?P<namespace>.+)/(?P<job>[^/]+)/(?P<run>[0-9a-fA-F-]{36})")


def new_run() -> str:
    """An id for the events of one run, a UUID of the kind that the client makes."""
    return str(generate_new_uuid())


def run_event(
    state: State,
    run: str,
    job: str,
    namespace: str,
    account: Account,
    *,
    error: str | None = None,
    when: str | None = None,
) -> ol.RunEvent:
    """An event.

    Args:
        state: What happened.
        run: Id of the run's events, a UUID.
        job, namespace: The job.
        account: What is known of the run by now.
        error: The class of what it failed with.
        when: When it happened, ISO 8601; now when left out.
    """
    own = {"runId": account.run_id, "versionRead": account.read, "versionPublished": account.version}
    told = {key: value for key, value in own.items() if value is not None}
    if account.already:
        told["alreadyPublished"] = True
    # The client's own type for it is the facets' common base.
    extended = cast(RunFacet, RunFacet(producer=_PRODUCER).with_additional_properties(**told))
    facets: dict[str, RunFacet] = {RUN_FACET: extended}
    if error is not None:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(
            message=error, programmingLanguage="PYTHON", producer=_PRODUCER
        )
    parent = _PARENT_ID.fullmatch(os.environ.get(PARENT, ""))
    if parent is not None:
        facets["parent"] = parent_run.ParentRunFacet(
            run=parent_run.Run(runId=parent["run"]),
            job=parent_run.Job(namespace=parent["namespace"], name=parent["job"]),
            producer=_PRODUCER,
        )
    kind: dict[str, JobFacet] = {
        "jobType": job_type_job.JobTypeJobFacet(
            processingType="BATCH", integration="DEDUP_STORAGE", jobType="JOB", producer=_PRODUCER
        )
    }
    return ol.RunEvent(
        eventType=ol.RunState(state.value),
        eventTime=when or datetime.now(UTC).isoformat(),
        run=ol.Run(runId=run, facets=facets),
        job=ol.Job(namespace=namespace, name=job, facets=kind),
        inputs=[_input(source) for source in account.sources],
        outputs=[_output(product) for product in account.products],
        producer=_PRODUCER,
    )


def _input(source: Source) -> ol.InputDataset:
    return ol.InputDataset(namespace=source.place.namespace, name=source.place.name, facets=_source_facets(source))


def _output(product: Product) -> ol.OutputDataset:
    facets = _source_facets(product.source)
    if product.types:
        facets["schema"] = schema_dataset.SchemaDatasetFacet(
            fields=[
                schema_dataset.SchemaDatasetFacetFields(name=name, type=kind or None)
                for name, kind in product.types.items()
            ],
            producer=_PRODUCER,
        )
    if product.uses:
        facets["columnLineage"] = column_lineage_dataset.ColumnLineageDatasetFacet(
            fields={
                column: column_lineage_dataset.Fields(inputFields=[_use(use) for use in uses])
                for column, uses in product.uses.items()
            },
            producer=_PRODUCER,
        )
    if product.dropped:
        facets["lifecycleStateChange"] = lifecycle_state_change_dataset.LifecycleStateChangeDatasetFacet(
            lifecycleStateChange=lifecycle_state_change_dataset.LifecycleStateChange.DROP, producer=_PRODUCER
        )
    counts: dict[str, OutputDatasetFacet] = {}
    if product.rows is not None:
        counts["outputStatistics"] = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=product.rows, size=product.bytes, producer=_PRODUCER
        )
    place = product.source.place
    return ol.OutputDataset(namespace=place.namespace, name=place.name, facets=facets, outputFacets=counts)


def _source_facets(source: Source) -> dict[str, DatasetFacet]:
    facets: dict[str, DatasetFacet] = {}
    if source.version is not None:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(
            datasetVersion=source.version, producer=_PRODUCER
        )
    if source.symlink is not None:
        named = symlinks_dataset.Identifier(namespace=source.symlink.namespace, name=source.symlink.name, type="TABLE")
        facets["symlinks"] = symlinks_dataset.SymlinksDatasetFacet(identifiers=[named], producer=_PRODUCER)
    return facets


def _use(use: ColumnUse) -> column_lineage_dataset.InputField:
    how = column_lineage_dataset.Transformation(
        type="DIRECT" if use.direct else "INDIRECT", subtype=use.subtype, masking=False
    )
    return column_lineage_dataset.InputField(
        namespace=use.place.namespace, name=use.place.name, field=use.column, transformations=[how]
    )
