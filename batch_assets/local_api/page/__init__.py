"""The web page of the local Batch API, below `/ui/`: forms and tables for a browser, made of the API's own functions.

`access` says who may open it, and checks each request; `app` has its routes and the headers of its responses;
`sign_in`, `batch_pages` and `file_pages` are its pages. `forms` reads what a browser sends, `batch_view` has the texts
about a batch, and `rendering` fills the templates.
"""
