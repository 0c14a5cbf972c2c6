"""The formats of OpenAI's API, without I/O. The other folders use these modules.

`strict_json` reads and writes JSON; `parameter_table` checks the parameters of requests, `parameters` reads those that
several endpoints have, `listing` pages of objects; `ids` makes identifiers; `errors` has OpenAI's error messages.
`printable` makes a client's text safe for a terminal.
"""
