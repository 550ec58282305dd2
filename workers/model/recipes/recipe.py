"""EmbeddingRecipe: how a text becomes a vector, with every `auto` resolved; and the size of the vector.

read.py makes it of a model's files. Tokenizer and encoder follow it; it goes into fingerprints and run.json. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from workers.config import ChunkBy, LongText, Pooling
from workers.errors import UsageError
from workers.model.layouts.late_interaction import LateInteraction
from workers.model.layouts.static import StaticLayout
from workers.model.modules import ModuleSpec, SparsePooling


@dataclass(frozen=True, slots=True)
class EmbeddingRecipe:
    """Token modules -> pooling -> vector modules -> (mean of chunks) -> truncate_dim -> normalisation."""

    transformer: str  # folder of the transformer, relative to the model's; "": the same
    pooling: tuple[Pooling, ...]  # several: their vectors are concatenated in this order
    include_prompt: bool  # False: pooling skips the prompt's tokens
    normalize: bool
    max_tokens: int  # longest sequence, special tokens and prompt included
    long_text: LongText
    chunk_overlap: int
    prompt: str  # prepended to every document
    query_prompt: str  # prepended to a search query
    truncate_dim: int | None
    do_lower_case: bool  # convert to lower case before the tokenizer's own normaliser
    token_modules: tuple[ModuleSpec, ...] = ()
    vector_modules: tuple[ModuleSpec, ...] = ()
    dim: int | None = None  # of output vectors; None if config.json does not give the hidden size (the encoder knows it)
    query_tokens: int | None = None  # longest sequence of a search query; None: max_tokens
    engine: str = ""  # architecture.engine_revision: since when the family's vectors are what they are; "": version 0.1
    tokenizer: str = ""  # a digest of the tokenizer; "": it makes the tokens that version 0.1 made of the same files
    chunk_by: ChunkBy = ChunkBy.TOKENS
    chunk_tokens: int | None = None  # longest chunk, without special tokens and prompt; None: what max_tokens leaves
    chunk_language: str = ""  # of the texts; "" where nothing is cut at sentences
    splitter: str = ""  # borders.splitter_version, likewise
    sparse: SparsePooling | None = None  # pooling sparse: how weights are made of logits
    static: StaticLayout | None = None  # a table of token vectors in place of the transformer
    late_interaction: LateInteraction | None = None  # pooling multi_vector: what the model's files say beside its modules

    @property
    def pooling_name(self) -> str:
        """As written to footers and summaries."""
        return "+".join(self.pooling)


def output_dim(recipe: EmbeddingRecipe, hidden_size: int) -> int:
    """Number of components of an output vector, for a transformer with this hidden size.

    Raises:
        UsageError: a module expects another number, or truncate_dim is larger than the number of components.
    """
    if recipe.sparse is not None:
        return recipe.sparse.vocabulary
    dim = _through(recipe.token_modules, hidden_size, recipe)
    dim = sum(4 * dim if mode is Pooling.LAST4_CONCAT else dim for mode in recipe.pooling)
    dim = _through(recipe.vector_modules, dim, recipe)
    if recipe.truncate_dim is not None and recipe.truncate_dim > dim:
        raise UsageError(
            f"model.truncate_dim={recipe.truncate_dim}: the model's vectors have {dim} components; at most that"
        )
    return recipe.truncate_dim or dim


def _through(modules: tuple[ModuleSpec, ...], dim: int, recipe: EmbeddingRecipe) -> int:
    for module in modules:
        if module.in_dim is not None and module.in_dim != dim:
            raise UsageError(
                f"model.pooling={recipe.pooling_name}: gives {dim} components, but the model's module {module.path} "
                f"takes {module.in_dim}; use the pooling it was trained with (auto)"
            )
        dim = module.out_dim or dim
    return dim
