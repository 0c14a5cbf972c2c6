"""The endpoints that answer a request, directly or as a line of a batch. `registry` is the one table of them; a new
endpoint is a module here and a row there. `models` says which names of models an endpoint takes.
"""
