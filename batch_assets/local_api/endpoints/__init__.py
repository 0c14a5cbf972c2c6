"""The endpoints that answer a request, directly or as a line of a batch.

`registry` is the one table of them: a new endpoint is a module here and a row there. Each of `chat`, `responses` (with
`response_input`) and `embeddings` checks a request body, passes it to an engine, and makes OpenAI's response object.
`models` says which names of models an endpoint takes.
"""
