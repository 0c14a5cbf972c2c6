"""Outside text and secrets.

Outside text (articles, answers, errors, file names) becomes harmless in `outside_text`. `secrets` knows what must
not be shown, `clean_errors` takes it out of exceptions and log records, `private_folder` makes folders that other
users of the machine cannot read.
"""
