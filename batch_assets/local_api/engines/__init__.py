"""What makes the answers. `engine_choice` picks: `extractive` (with `sentences`), the built-in summarizer without a
model; `embedder`; `remote_engine`, another OpenAI-compatible server; `small_model`, a language model in a process
of its own. `engine` is what they have in common, `tokens` counts tokens.
"""
