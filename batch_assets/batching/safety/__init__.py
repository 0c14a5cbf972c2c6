"""Makes outside text (articles, answers, errors, file names) harmless, and keeps secrets out of tables and logs.

Text of others goes through `outside_text`, which removes control characters and then, by `secrets`, the secrets.
`secrets` finds them by the values of the environment and by their place in a URL. `clean_errors` does the same with
exceptions and log records, before Dagster or Python stores or prints them. `private_folder` creates folders that other
users of the machine cannot read.
"""
