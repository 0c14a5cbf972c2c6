"""What an API says, and nothing of what is done about it.

`identity` tells which API and account answer, `batches` reads and lists batches, `polling` does so for many days
within the time of a sensor's tick, `download` stores a file, `prices` knows what a token costs. A quirk of a new
provider goes here. `elsewhere` is the sentence for a batch that another API made.
"""
