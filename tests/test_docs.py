"""README.md and docs/: tables equal the results, names in the code exist, links resolve, rooms are all named."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.tables import RESULTS, replaced, stale_pages
from workers.engine.precision import TOLERANCES

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
ARCHITECTURE = DOCS / "architecture.md"
PAGES = [README, *sorted(DOCS.rglob("*.md")), ROOT / "deploy" / "README.md"]
README_CHARACTERS = 9_000
GLOSSARY_WORDS = 30
MOST_FILES = 4  # that a change of "Where to put what" opens
QUESTIONS = 10
# `folder/file.py` or `folder/file.py:name`, in backticks
NAMED = re.compile(r"`((?:jobs|workers|benchmarks|tests|deploy)/[\w/.-]+\.(?:py|c))(?::([\w.]+))?`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def _page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _section(text: str, title: str) -> str:
    _, begin, rest = text.partition(f"\n## {title}\n")
    assert begin, f"no section {title!r}"
    return rest.partition("\n## ")[0]


def _rows(section: str) -> list[list[str]]:
    """Cells of the section's tables, without header and rule."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = [number for number, row in enumerate(cells) if set("".join(row)) <= set("-: ")]
    headers = {number - 1 for number in rules}
    return [row for number, row in enumerate(cells) if number not in headers and number not in rules]


def _definitions(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node
            case ast.Assign(targets=targets):
                yield from ((target.id, node) for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name, node


def _defines(path: Path, name: str) -> bool:
    """Whether the file defines the function, class, constant or, as Class.name, the member."""
    body = ast.parse(path.read_text()).body
    for part in name.split("."):
        node = dict(_definitions(body)).get(part)
        if node is None:
            return False
        body = node.body if isinstance(node, ast.ClassDef) else []
    return True


def _rooms() -> dict[str, str]:
    """Every package below jobs/ and workers/ -> the first paragraph of its docstring."""
    folders = {path.parent for top in ("jobs", "workers") for path in (ROOT / top).rglob("*.py")}
    rooms = {}
    for folder in sorted(folders - {ROOT / "jobs", ROOT / "workers"}):
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        rooms[str(folder.relative_to(ROOT))] = " ".join(text.partition("\n\n")[0].split())
    return rooms


def _anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_tables_are_what_the_results_say() -> None:
    assert stale_pages(ROOT, RESULTS) == {}, "run: python -m benchmarks.tables"


def test_a_page_with_other_figures_is_stale(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    readme, full = README.read_text(), (DOCS / "benchmarks.md").read_text()
    (tmp_path / "README.md").write_text(re.sub(r"\d\.\d\d \|", "9.99 |", readme, count=1))
    (tmp_path / "docs" / "benchmarks.md").write_text(full)
    assert stale_pages(tmp_path, RESULTS) == {tmp_path / "README.md": readme}
    (tmp_path / "docs" / "benchmarks.md").write_text("no marks")
    with pytest.raises(SystemExit, match="benchmarks:begin"):
        stale_pages(tmp_path, RESULTS)


def test_precisions_are_those_of_the_self_check() -> None:
    rows = _rows(_section((DOCS / "benchmarks.md").read_text(), "What a precision must reproduce"))
    documented = {re.findall(r"`(\w+)`", first)[0]: (float(least), float(mean)) for first, _, least, mean in rows}
    assert documented == {precision.value: (limit.least, limit.mean) for precision, limit in TOLERANCES.items()}


def test_the_readme_is_short() -> None:
    assert len(README.read_text()) < README_CHARACTERS


def test_the_glossary_is_short_and_of_one_sentence_each() -> None:
    rows = _rows(_section(ARCHITECTURE.read_text(), "Glossary"))
    assert 20 <= len(rows) <= GLOSSARY_WORDS
    assert len({word for word, _ in rows}) == len(rows)
    assert [word for word, meaning in rows if not re.fullmatch(r"[^.]+(\.[\w]+[^.]*)*\.", meaning)] == []


@pytest.mark.parametrize("page", PAGES, ids=_page_name)
def test_named_files_and_functions_exist(page: Path) -> None:
    wrong = []
    for file, name in NAMED.findall(page.read_text()):
        path = ROOT / file
        if not path.is_file() or (name and not _defines(path, name)):
            wrong.append(f"{file}:{name}" if name else file)
    assert wrong == []


def test_a_function_that_is_not_there_is_noticed() -> None:
    path = ROOT / "benchmarks" / "tables.py"
    assert _defines(path, "replaced")
    assert _defines(path, "PAGES")
    assert not _defines(path, "replaced.text")
    assert not _defines(path, "no_such_function")
    assert _defines(ROOT / "workers" / "errors.py", "ObjectError.__init__")
    assert NAMED.findall("see `jobs/cli.py:main` and `workers/engine/kernels/attention.c`") == [
        ("jobs/cli.py", "main"),
        ("workers/engine/kernels/attention.c", ""),
    ]


@pytest.mark.parametrize("page", PAGES, ids=_page_name)
def test_relative_links_resolve(page: Path) -> None:
    wrong = []
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            wrong.append(link)
    assert wrong == []


def test_every_room_is_in_the_table_with_its_own_words() -> None:
    lines = [f"| [{name}](../{name}/) | {text} |" for name, text in _rooms().items()]
    text = ARCHITECTURE.read_text()
    wanted = replaced(text, "\n".join(["| room | what it is |", "| --- | --- |", *lines]), "rooms")
    assert text == wanted, "the table of rooms must be:\n" + "\n".join(lines)


def test_the_diagram_names_rooms_that_exist() -> None:
    [block] = re.findall(r"```mermaid\n(.+?)```", ARCHITECTURE.read_text(), re.DOTALL)
    named = re.findall(r"\b(?:jobs|workers)/[\w/]+", block)
    assert len(named) > 10
    assert [name for name in named if name not in _rooms()] == []


def test_changes_open_few_files() -> None:
    rows = _rows(_section(ARCHITECTURE.read_text(), "Where to put what"))
    assert len(rows) >= 9
    counts = {change: len(re.findall(r"`[\w/]+(?:\.py|/)(?::\w+)?`", files)) for change, files in rows}
    assert {change: count for change, count in counts.items() if not 0 < count <= MOST_FILES} == {}


def test_ten_questions_are_answered_by_a_file_and_a_function() -> None:
    section = _section(ARCHITECTURE.read_text(), "Questions")
    answers = re.findall(r"^\*\*(.+?\?)\*\*(.+?)(?=\n\n|\Z)", section, re.MULTILINE | re.DOTALL)
    assert len(answers) >= QUESTIONS
    assert [question for question, answer in answers if not any(name for _, name in NAMED.findall(answer))] == []


def test_every_case_has_a_test_that_holds_it() -> None:
    """That the named tests exist is test_named_files_and_functions_exist's."""
    page = (DOCS / "cases.md").read_text()
    for title, count in (("Inputs", 22), ("Models", 13), ("Environments", 13)):
        rows = _rows(_section(page, title))
        assert len(rows) == len({case.split()[0] for case, *_ in rows}) == count, title
        for case, before, now, tests in rows:
            assert before, case
            assert now, case
            named = NAMED.findall(tests)
            assert named, case
            assert all(file.startswith("tests/") and name.startswith("test_") for file, name in named), case
