"""Another content of a file is another evaluation."""

from __future__ import annotations

from pathlib import Path

from jobs.evaluate.config import EvaluateConfig
from jobs.evaluate.job import EvaluateJob


def test_settings_hold_digests_of_the_files(tmp_path: Path) -> None:
    def settings(content: str) -> dict[str, object]:
        (tmp_path / "q.jsonl").write_text(content)
        section = {"snapshot": "out", "task": "retrieve", "queries": str(tmp_path / "q.jsonl")}
        return EvaluateJob(EvaluateConfig.model_validate({"evaluate": section, "output": {"uri": "to"}})).settings()

    one = settings('{"id": "a", "text": "b"}\n')
    assert settings('{"id": "a", "text": "b"}\n') == one
    other = settings('{"id": "a", "text": "c"}\n')
    assert other != one
    assert {name for name in one if one[name] != other[name]} == {"files"}
