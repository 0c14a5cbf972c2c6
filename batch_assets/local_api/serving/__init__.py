"""The start and the end of the server, and what it does besides answering requests.

`server` runs all steps from the start to the end: `directory_lock`, `keys`, `listener`, `uvicorn_server`. `discovery`
tells other processes the URL. `events` prints log lines. `webhooks` delivers the end of each batch to the user's URL.
"""
