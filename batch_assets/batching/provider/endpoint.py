"""The endpoint of every request in a batch. It is a part of the custom_id: with another one, every request is new."""

ENDPOINT = "/v1/chat/completions"
