"""The JSON schema of an answer, as OpenAI's structured outputs use it. Of the project, this folder imports nothing.

`strict` checks that a schema is one that OpenAI accepts, before anything is sent. `judge` decides whether an answer is
valid. `columns` makes columns of DuckDB from the fields. `example` makes a valid answer from a text, for the local
Batch API.
"""
