"""A Batch API on localhost: OpenAI's files, batches and chat completions, for development, tests and
self-hosting.

`server.serve` runs it, `discovery.running_url` finds one that runs. From there the way goes through
`app` (routes) to `files`, `batches` and `chat` (the objects), and `execution` (the background work).
"""
