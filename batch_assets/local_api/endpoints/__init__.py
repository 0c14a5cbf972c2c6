"""The endpoints that answer a request, directly or as a line of a batch.

`registry` is the one table of them: a new endpoint is a module here and a row there. Each of `chat`, `responses`,
`completions` and `embeddings` checks a request body, passes it to an engine, and makes OpenAI's response object;
`moderations` only refuses. `chat_parameters` and `response_parameters` are tables of what a request may have, and what
the built-in engine refuses. `chat_messages` and `response_input` read the messages, with `image_parts`, into those of
`messages`. `models` says which names of models an endpoint takes.
"""
