"""Pages that load nothing, for a browser or a printer: what `base.html` and `render.py` give to each of them.

A page is a template that extends `base.html`. Its policy forbids scripts and the network, and the template escapes
every text.
"""
