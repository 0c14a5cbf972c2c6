"""A Batch API on localhost: OpenAI's files, batches, chat completions, responses and embeddings, for development,
tests and self-hosting. It imports nothing else of this project.

`serving.server.serve` runs it, `serving.discovery.running_url` finds one that runs. A request goes through `http`
(connections, access, routes) to `storage` (files) or `batches`; what answers a request, directly or as a line of a
batch, is in `endpoints`, by one of the `engines`. `page` is the web page for browsers. `wire` has the formats and
errors of OpenAI's API. `settings` and `faults` say how the server behaves.
"""
