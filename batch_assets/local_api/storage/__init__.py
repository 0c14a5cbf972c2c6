"""What the server keeps in its folder: `database` (SQLite), `files` (uploads and results). `disk_errors` makes a
full or closed disk an answer, `private` makes folders that no other user can read.
"""
