"""The server's life: `server` starts and ends it, `discovery` tells others where it listens, `keys` keeps its key,
`events` prints what happens, `webhooks` delivers to the user's URL.
"""
