"""Cells of a CSV file that a spreadsheet would run as a formula: `=`, `+`, `-` and `@` begin one, or bring one about.

https://owasp.org/www-community/attacks/CSV_Injection: also after a tab or a line end, and in full width.
"""

import re

from batch_assets.batching.sql_text import literal

BEGINS_FORMULA = r"^[=+\-@\t\r\n＝＋－＠]"
QUOTE = "'"  # a spreadsheet shows a cell that begins with it as text
_FORMULA = re.compile(BEGINS_FORMULA)


def without_formula(text: str) -> str:
    """The text with a quote before it if a spreadsheet would run it."""
    return QUOTE + text if _FORMULA.match(text) else text


def without_formula_sql(expression: str) -> str:
    """The same of a text in SQL."""
    begins = f"regexp_matches({expression}, {literal(BEGINS_FORMULA)})"
    return f"CASE WHEN {begins} THEN {literal(QUOTE)} || {expression} ELSE {expression} END"
