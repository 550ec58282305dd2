"""Tells the lineage of an embedding run: what it reads and makes, and how this driver's work on it ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from jobs.driver.signals import Stopped
from jobs.monitoring.lineage import Lineage
from jobs.monitoring.lineage_event import Column, RunFacts
from jobs.planning.run import ReuseRefused, Run
from jobs.state.stored_run import StoredRun
from workers import __version__
from workers.storage.uris import redact
from workers.table.vector_identity import TOLD_FACTS


@contextlib.contextmanager
def lineage_of(run: Run, driver: int) -> Iterator[dict[str, Any]]:
    """Events around the work on a begun run. The caller puts the summary into what it yields.

    `driver`: its lock's generation.
    """
    lineage = Lineage.begun(run.config.lineage, lambda: _facts(run, driver))
    summary: dict[str, Any] = {}
    try:
        yield summary
    except BaseException as error:
        if lineage is not None:
            stopped = isinstance(error, Stopped | ReuseRefused | KeyboardInterrupt)
            (lineage.abort if stopped else lineage.fail)(str(error) or type(error).__name__)
        raise
    if lineage is not None:
        _tell(lineage, summary)


def _tell(lineage: Lineage, summary: Mapping[str, Any]) -> None:
    if summary["published"]:
        lineage.complete(summary["rows"], summary["output_bytes"])
    else:
        lineage.fail("not published: " + "; ".join(summary["reasons"]))


def _facts(run: Run, driver: int) -> RunFacts:
    config, corpus = run.config, run.config.corpus
    ids = [Column(corpus.id, str(run.plan.id_type))] if corpus.id else []
    texts = [Column(name, "string") for name in corpus.text if name != corpus.id]
    kept = [Column(field.name, str(field.type)) for field in run.plan.keep if field.name not in (corpus.id, *corpus.text)]
    output = redact(run.store.uri)
    return RunFacts(
        run_id=run.run_id,
        driver=driver,
        job=f"embed {output}",
        namespace=config.lineage.namespace,
        inputs=[redact(uri) for uri in corpus.uri],
        output=output,
        columns_in=[*ids, *texts, *kept],
        columns_out=[Column(field.name, str(field.type)) for field in StoredRun(run.store, run.record).schema.rows],
        model={name: run.record.model.get(name) for name in TOLD_FACTS},
        version=__version__,
    )
