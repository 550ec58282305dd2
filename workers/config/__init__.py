"""The sections of the configuration that workers use. Each setting is documented where it is declared.

Imports neither torch nor ray, and does no I/O: parsing a configuration takes milliseconds. `jobs/config.py` composes these
sections into RunConfig.
"""

from workers.config.corpus import Character, CorpusConfig, CsvConfig, SourceFormat, TableFormat
from workers.config.model import BY_TOKEN, LOCALE, ROW_A_CHUNK, ChunkBy, LongText, ModelConfig, Pooling, Precision
from workers.config.output import (
    MAIN_VECTORS,
    OutputConfig,
    OutputTable,
    ParquetConfig,
    VectorColumn,
    VectorEncoding,
    VectorType,
)
from workers.config.section import Auto, ByteCount, Names, Section, StorageOptions

__all__ = [
    "BY_TOKEN",
    "LOCALE",
    "MAIN_VECTORS",
    "ROW_A_CHUNK",
    "Auto",
    "ByteCount",
    "Character",
    "ChunkBy",
    "CorpusConfig",
    "CsvConfig",
    "LongText",
    "ModelConfig",
    "Names",
    "OutputConfig",
    "OutputTable",
    "ParquetConfig",
    "Pooling",
    "Precision",
    "Section",
    "SourceFormat",
    "StorageOptions",
    "TableFormat",
    "VectorColumn",
    "VectorEncoding",
    "VectorType",
]
