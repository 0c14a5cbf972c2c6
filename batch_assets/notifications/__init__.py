"""Messages to the URLs of BATCH_ASSETS_NOTIFY, one for each event.

The sensor `batch_assets_notifications` reads new events of our assets (`reading`) and decides which of them a message
is about (`news`). It makes texts of them (`texts`), sends these (`delivery`), and records in Dagster's event log what
was sent (`memory`): so no message is sent again after a restart or a lost cursor.
"""
