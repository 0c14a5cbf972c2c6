"""From a connection to an answer: `connections` limits what a client may hold open, `access` checks Host, Origin
and key, `app` has the routes, `uploads` reads forms, `json_response` writes JSON, `fault_control` changes faults
while it runs.
"""
