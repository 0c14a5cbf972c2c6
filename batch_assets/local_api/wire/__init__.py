"""The formats of OpenAI's API, without I/O. The other folders use these modules.

`strict_json` reads and writes JSON; `parameters` reads parameters of requests, `listing` pages of objects; `ids` makes
identifiers; `errors` has OpenAI's error messages. `printable` makes a client's text safe for a terminal.
"""
