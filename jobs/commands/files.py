"""`reembed files`: the part files of the published snapshot, one URI a line, for readers that take a list."""

from __future__ import annotations

from jobs.publish.open_snapshot import open_published


def published_files(target: str) -> list[str]:
    """URIs of every part, sorted. Raises: UsageError: nothing is published there."""
    published = open_published(target)
    return sorted(published.store.uri_of(file.path) for file in published.files)
