"""Text of Python in a statement of SQL, where no parameter can be."""


def literal(text: str) -> str:
    """A string of SQL."""
    return "'" + text.replace("'", "''") + "'"
