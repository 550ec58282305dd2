"""Vectors -> Parquet parts that can be killed at any moment and are never doubled."""
