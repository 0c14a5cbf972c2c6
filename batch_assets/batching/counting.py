"""Numbers in sentences."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 batch`, `1,000 batches`: the number with the singular or the plural, by default the singular with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
