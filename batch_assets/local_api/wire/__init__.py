"""The formats of OpenAI's API: `errors`, `parameters` of a query, `listing` (pages), `strict_json`, `ids`.
`printable` makes text of a client harmless in a terminal.
"""
