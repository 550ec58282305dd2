"""Model folders for the tests: the packaged MiniLM with something changed, and tiny random models of other families."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from workers.config import ModelConfig, Precision
from workers.engine.encoder import Encoder, EncoderOptions
from workers.model.files import ModelFiles, resolve_model
from workers.model.golden import GOLDEN_TEXTS
from workers.model.recipes.read import read_recipe
from workers.model.recipes.recipe import EmbeddingRecipe
from workers.model.tokenizer import TextTokenizer

PASSAGE = (
    "The harbour froze in January, and for eleven days nothing moved but the gulls. When the ice broke, the first boat "
    "out was the pilot's; the second carried flour, lamp oil and three letters that nobody had expected. "
)
TEXTS = [
    "snow",
    "The quick brown fox jumps over the lazy dog.",
    "Emoji 👩🏽\u200d🚀 and flags 🇩🇪, zero\u200bwidth, naïve café, ﬁne ligature",
    "日本語のテキストと中文字符混合在一起没有空格。",
    "שלום עולם, this is right to left مرحبا بالعالم",
    PASSAGE,
    PASSAGE * 9,
    "\x00\x01\x02",
    "supercalifragilisticexpialidocious" * 40,
    "a b c d e f g " * 30,
]  # every length from two special tokens alone to several times the longest input, in no order


def copy_model(source: Path, target: Path) -> Path:
    """A copy to change, the weights linked."""
    shutil.copytree(
        source, target, copy_function=lambda a, b: Path(b).symlink_to(a) if a.endswith(".safetensors") else shutil.copy(a, b)
    )
    return target


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON object; None removes one."""
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}))


def write_modules(folder: Path, *modules: tuple[str, str]) -> None:
    """modules.json from (type, path)."""
    listed = [{"idx": index, "name": str(index), "path": path, "type": kind} for index, (kind, path) in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(listed))


def layout(folder: Path | str, **settings: Any) -> tuple[ModelFiles, EmbeddingRecipe]:
    config = ModelConfig(name=str(folder), **settings)
    files = resolve_model(config)
    return files, read_recipe(files, config)


def build(folder: Path, batch_tokens: int = 512, **settings: Any) -> tuple[TextTokenizer, Encoder]:
    """Tokeniser and encoder of a model; small batches, so that every test has several of them and padding in most.

    One thread: on so little work more of them only wait for each other.
    """
    precision = Precision(settings.pop("precision", "float32"))
    files, recipe = layout(folder, **settings)
    tokenizer = TextTokenizer(files.folder, recipe)
    golden = tokenizer.tokenize(GOLDEN_TEXTS)
    return tokenizer, Encoder(files, recipe, golden, EncoderOptions(precision, batch_tokens, threads=1))
