"""`reembed files`: lists the part files of the published snapshot, one URI a line."""

from __future__ import annotations

from jobs.publish.open_snapshot import open_published


def published_files(target: str) -> list[str]:
    """URIs of every part, sorted. Raises: UsageError: nothing is published."""
    published = open_published(target)
    return sorted(published.store.uri_of(file.path) for file in published.files)
