"""The HTTP side: from a connection to a response.

`connections` limits how many connections clients hold, and how long; `request_head` limits the size of a head. `access`
checks Host, Origin and key; `local_names` knows the names of this machine, `same_origin` compares Origin with Host.
`app` has the table of routes; the handlers are in `file_routes` (with `uploads`), `batch_routes`, `model_routes`,
`status_routes` and `fault_routes`, those of the web page in the folder `page`. `handlers` is what they have in common,
`error_handlers` turns exceptions into responses, `responses` has the kinds of responses.
"""
