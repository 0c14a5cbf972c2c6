"""A Batch API on localhost: OpenAI's files, batches, chat completions, responses and embeddings, for development,
tests and self-hosting.

`server.serve` runs it, `discovery.running_url` finds one that runs. From there the way goes through
`app` (routes) to `files` and `batches` (the objects), `endpoints` (`chat`, `responses`, `embeddings`: what answers a
request), and `execution` (the background work).
"""
