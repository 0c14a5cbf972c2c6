"""Dagster assets that summarise a daily stream of articles through OpenAI's Batch API."""

__version__ = "0.1.0"
