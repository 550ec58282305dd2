"""One OpenLineage event of a run, as the client's object: naming of data sets, and facets.

    job      namespace of lineage.namespace; `embed` and the output's URI
    run      a UUID made of the output's URI, the run id and the driver's number; facets processing_engine, errorMessage
    inputs   one data set for each entry of corpus.uri, with the columns that are read
    output   the OUTPUT folder, which each run gives a new version; columns, model, and of a published run rows and bytes

Data sets are named by OpenLineage's rules (spec/Naming.md): the namespace is scheme and authority, the name is the path.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from workers.table.paths import RunPaths

PRODUCER = "urn:x-reembed"
MODEL_FACET, RUN_FACET = "reembed_model", "reembed_run"
_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
_KEYS = ("s3", "gs", "abfs", "abfss", "az", "wasbs", "oss", "hf")  # whose names have no slash before them
_WILD = "*?["


class RunState(StrEnum):
    """`eventType` of OpenLineage, those that are sent."""

    START = "START"
    COMPLETE = "COMPLETE"
    FAIL = "FAIL"
    ABORT = "ABORT"


class Column(NamedTuple):
    """Name and type, as text."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What an event says. URIs are without credentials; `model` is what made the vectors.

    `driver`: generation of the lock, another for each driver. Each is a run of its own in OpenLineage, where a run has one
    START and one end.
    """

    run_id: str
    driver: int
    job: str
    namespace: str
    inputs: Sequence[str]
    output: str
    columns_in: Sequence[Column]
    columns_out: Sequence[Column]
    model: dict[str, Any]
    version: str
    state: RunState = RunState.START
    time: str = ""  # ISO 8601, UTC
    error: str | None = None
    rows: int | None = None  # written, and their bytes
    bytes: int | None = None


def dataset_name(uri: str) -> tuple[str, str]:
    """Namespace and name of a folder, object or glob; of a glob the folder before its first wildcard."""
    scheme, separator, rest = uri.rpartition("::")[2].rpartition("://")
    if not separator or scheme in ("file", "local"):
        return "file", os.path.abspath(_fixed(os.path.expanduser(rest)))  # noqa: PTH100, PTH111 - no link is resolved
    scheme = _ALIASES.get(scheme, scheme)
    parts = urlsplit(f"{scheme}://{_fixed(rest)}")
    path = parts.path.strip("/")
    return f"{scheme}://{parts.netloc}", path if scheme in _KEYS and path else f"/{path}"


def run_uuid(output: str, run_id: str, driver: int) -> uuid.UUID:
    """The same for the same driver of a run, wherever it is computed."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{output.rstrip('/')}/{RunPaths(run_id).root}#{driver}")


def run_event(facts: RunFacts) -> Any:
    """The client's RunEvent. Imports the client."""
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent
    from openlineage.client.facet_v2 import (
        dataset_version_dataset,
        error_message_run,
        job_type_job,
        output_statistics_output_dataset,
        processing_engine_run,
        schema_dataset,
    )
    from openlineage.client.generated.base import DatasetFacet, EventType, RunFacet

    producer = f"{PRODUCER}:{facts.version}"

    def schema(columns: Any) -> Any:
        fields = [schema_dataset.SchemaDatasetFacetFields(name=column.name, type=column.type) for column in columns]
        return schema_dataset.SchemaDatasetFacet(fields=fields, producer=producer)

    engine = processing_engine_run.ProcessingEngineRunFacet(version=facts.version, name="reembed", producer=producer)
    own = RunFacet(producer=producer).with_additional_properties(run_id=facts.run_id, driver=facts.driver)
    run_facets = {"processing_engine": engine, RUN_FACET: own}
    if facts.error is not None:
        told = error_message_run.ErrorMessageRunFacet(message=facts.error, programmingLanguage="python", producer=producer)
        run_facets["errorMessage"] = told
    kind = job_type_job.JobTypeJobFacet(processingType="BATCH", integration="REEMBED", jobType="JOB", producer=producer)
    namespace, name = dataset_name(facts.output)
    output = OutputDataset(
        namespace=namespace,
        name=name,
        facets={
            "schema": schema(facts.columns_out),
            "version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=facts.run_id, producer=producer),
            MODEL_FACET: DatasetFacet(producer=producer).with_additional_properties(**facts.model),
        },
    )
    if facts.rows is not None:
        output.outputFacets = {
            "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
                rowCount=facts.rows, size=facts.bytes, producer=producer
            )
        }
    inputs = {dataset_name(uri): None for uri in facts.inputs}
    return RunEvent(
        eventType=EventType(facts.state.value),
        eventTime=facts.time,
        run=Run(runId=str(run_uuid(facts.output, facts.run_id, facts.driver)), facets=run_facets),
        job=Job(namespace=facts.namespace, name=facts.job, facets={"jobType": kind}),
        inputs=[InputDataset(*named, facets={"schema": schema(facts.columns_in)}) for named in inputs],
        outputs=[output],
        producer=producer,
    )


def _fixed(path: str) -> str:
    """The folders before the first wildcard."""
    magic = min((path.find(char) for char in _WILD if char in path), default=-1)
    return path if magic < 0 else path[: max(path.rfind("/", 0, magic), 0)]
