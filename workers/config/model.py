"""The section `model`: which model, and how a text becomes one vector, or several."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, field_validator

from workers.config.section import Auto, Section, StorageOptions

LOCALE = r"^[a-z]{2,3}([_-][A-Za-z0-9]{2,8})*$"


class Pooling(StrEnum):
    """How hidden states become one vector; formulas in workers/engine/pooling.py."""

    AUTO = "auto"
    CLS = "cls"
    MEAN = "mean"
    MAX = "max"
    MEAN_SQRT_LEN = "mean_sqrt_len"
    WEIGHTED_MEAN = "weighted_mean"
    LAST_TOKEN = "last_token"  # noqa: S105 - a pooling, no password
    POOLER = "pooler"
    LAST4_MEAN = "last4_mean"
    LAST4_CONCAT = "last4_concat"
    MEAN_LSTM = "mean_lstm"
    TOKENS = "tokens"
    SPARSE = "sparse"
    MULTI_VECTOR = "multi_vector"


BY_TOKEN = frozenset({Pooling.TOKENS, Pooling.MULTI_VECTOR})
"""A row holds a vector for each token: of the model's states, or as a late-interaction model makes them."""


class LongText(StrEnum):
    """What becomes of a text longer than max_tokens."""

    TRUNCATE = "truncate"
    CHUNKS = "chunks"
    MEAN_OF_CHUNKS = "mean_of_chunks"
    LATE_CHUNKS = "late_chunks"


ROW_A_CHUNK = frozenset({LongText.CHUNKS, LongText.LATE_CHUNKS})
"""A document has a row for each of its chunks."""


class ChunkBy(StrEnum):
    """Where one chunk ends and the next begins; see workers/model/chunking."""

    TOKENS = "tokens"
    SENTENCES = "sentences"
    MARKDOWN = "markdown"


class Precision(StrEnum):
    """The number format in which the model is computed."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    FLOAT8 = "float8"


class ModelConfig(Section):
    """The model, and how hidden states become one vector."""

    name: str = "bert-base-uncased"
    """Hub name, local folder, package:NAME/folder, or object-store URI of a folder. safetensors only, no remote code."""
    revision: str | None = None
    """Hub branch, tag or commit."""
    pooling: Pooling = Field(Pooling.AUTO, strict=False)
    """auto follows the model's modules.json and 1_Pooling/config.json, else mean."""
    normalize: bool | Auto = "auto"
    """Unit length (L2). auto: as modules.json says; true where there is no modules.json."""
    max_tokens: int | Auto = Field("auto")
    """Longest input in tokens, special tokens included. auto: sentence_bert_config.json, else the model's maximum."""
    long_text: LongText = Field(LongText.TRUNCATE, strict=False)
    """truncate | chunks (one row a chunk) | late_chunks (one row a chunk, pooled from the states that its tokens have in the
    whole document) | mean_of_chunks (one row a document, chunks weighted by tokens)."""
    chunk_by: ChunkBy = Field(ChunkBy.TOKENS, strict=False)
    """Where chunks end: tokens (as many as fit) | sentences (whole ones, as many as fit) | markdown (sections, each from its
    heading on; longer ones at their blocks). The last two need reembed[chunking]."""
    chunk_tokens: int | Auto = "auto"
    """Longest chunk, in tokens of text: special tokens and prompt are not counted. auto: what max_tokens leaves; with
    late_chunks a quarter of max_tokens, at most 256."""
    chunk_language: str = Field("en", pattern=LOCALE)
    """Language of the texts for chunk_by: its abbreviations end no sentence (en, de, fr, pt_BR, ...)."""
    chunk_overlap: int = Field(64, ge=0)
    """Tokens shared by neighbouring inputs of the model: the chunks; with late_chunks the windows over a document of more
    than max_tokens."""
    prompt: str | None = None
    """Put before every document. null: the model's own for documents, by its config_sentence_transformers.json. "": none."""
    query_prompt: str | None = None
    """Put before a search query. null: the model's own for queries, else that of documents. "": none."""
    truncate_dim: int | None = Field(None, ge=1)
    """Keep the first components only (Matryoshka models), before normalising."""
    sparse_top: int | Auto | None = "auto"
    """pooling sparse: the largest weights of a text that are kept. auto: max_active_dims of the model's files, else all that
    are not zero. null: all that are not zero."""
    precision: Precision = Field(Precision.AUTO, strict=False)
    """auto: float16 on CUDA (bfloat16 where that overflows), bfloat16 on CPUs that multiply it, else float32.
    int8: BERT-like models on CPUs; float8: on GPUs from compute capability 8.9. Whichever it is must reproduce golden
    texts within its tolerance of float32."""
    batch_tokens: int | Auto = "auto"
    """Token budget of one batch. auto: 2,048 on a CPU; on CUDA the first replica of a run tries several, from 65,536."""
    storage_options: StorageOptions = Field(default_factory=dict, repr=False)
    """For a model on object storage."""

    @field_validator("max_tokens", "batch_tokens", "chunk_tokens")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 4:
            raise ValueError("must be at least 4 tokens")
        return value

    @field_validator("sparse_top")
    @classmethod
    def _some_weights(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1 weight, or null for all that are not zero")
        return value

    def truncating(self) -> ModelConfig:
        """The same for texts that are not cut into chunks, such as queries."""
        whole = {"long_text": LongText.TRUNCATE, "chunk_by": ChunkBy.TOKENS, "chunk_tokens": "auto"}
        return self.model_copy(update=whole)
