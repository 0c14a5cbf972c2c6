"""The server's folder.

`database` is its SQLite file, for files, batches, counters and webhook events. `files` are the file objects: uploads
come from `http.uploads`, results from `batches.finalizing`. `disk_errors` makes an error message of a disk that is full
or not writable. `private` makes folders and files that no other user can read.
"""
