"""The engines, which make the answers. `engine_choice` chooses one by the model of a request.

`engine` has the built-in ones: `extractive` summarizes without a model (text → `plain_text` → `sentences` → ranking),
`instant` echoes. `remote_engine` forwards to another OpenAI-compatible server; `small_model` is such a server with a
language model, in a process of its own. `embedder` makes embeddings, `images` captions; `tokens` counts tokens.
"""
