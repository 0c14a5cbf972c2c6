"""The endpoint that every request is sent to, in a batch."""

ENDPOINT = "/v1/chat/completions"
