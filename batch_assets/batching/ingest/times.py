"""The time of a row as SQL: what feeds and exports have as times, and nothing ambiguous.

A time without a zone is UTC. `01/05/26` and names of zones with several meanings (`BST`, `IST`) are not read. The SQL
is a chain in which each step uses the one before it once or twice: DuckDB needs long to plan a larger expression.
"""

from datetime import UTC, datetime, timedelta

from batch_assets.batching.sql_text import literal

FIRST_TIME = "1900-01-01"  # earlier times are mistakes: a year of two digits, a default
CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?"
USUAL = r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?)?"
USUAL_MAIL = r"[A-Z][a-z]{2}, \d\d? [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d (GMT|[+-]\d{4})"
NUMBER = r"\d+(\.\d*)?([eE]\+?\d+)?"
ISO = rf"^(\d{{4}})[-/](\d{{1,2}})[-/](\d{{1,2}})(?:[Tt_ ]+({CLOCK}))?\s*(.*)$"
COMPACT = r"^(\d{4})(\d\d)(\d\d)[Tt](\d\d)(\d\d)(\d\d)?\s*(.*)$"  # 20260105T080000Z
# RFC 822: Mon, 05 Jan 2026 08:00:00 GMT
MAIL = rf"^(?:[A-Za-z]+\.?,?\s+)?(\d{{1,2}})[ -]([A-Za-z]{{3,9}})\.?[ -](\d{{4}}|\d\d)(?:,?\s+({CLOCK}))?\s*(.*)$"
AMERICAN = r"^([A-Za-z]{3,9})\.?\s+(\d{1,2}),?\s+(\d{4})$"  # January 5, 2026
C_TIME = rf"^[A-Za-z]{{3}}\s+([A-Za-z]{{3}})\s+(\d{{1,2}})\s+({CLOCK})\s+(?:([+-]\d{{4}})\s+)?(\d{{4}})$"
MONTHS = (
    "jan(?:uary)?",
    "feb(?:ruary)?",
    "mar(?:ch)?",
    "apr(?:il)?",
    "may",
    "june?",
    "july?",
    "aug(?:ust)?",
    "sept?(?:ember)?",
    "oct(?:ober)?",
    "nov(?:ember)?",
    "dec(?:ember)?",
)
# The zones of RFC 822 and of Europe that have one meaning. https://www.rfc-editor.org/rfc/rfc2822#section-4.3
ZONES = {
    "+00": "UTC|UT|GMT|Z|WET",
    "+01": "CET|WEST",
    "+02": "CEST|EET",
    "+03": "EEST",
    "-04": "EDT",
    "-05": "EST|CDT",
    "-06": "CST|MDT",
    "-07": "MST|PDT",
    "-08": "PST",
}
REGION = r" [A-Za-z_]+/[A-Za-z_/+-]+"
WHOLE = rf"\d{{4}}-\d{{1,2}}-\d{{1,2}} \d{{1,2}}:\d\d(:\d\d(\.\d+)?)?([+-]\d\d(:?\d\d)?|{REGION})?"


def time_of_text(column: str) -> str:
    """SQL of the time in a column of texts: a TIMESTAMPTZ, or NULL for what is no time."""
    text = f"trim({column}, chr(32) || chr(9) || chr(13) || chr(10))"
    digits = _replaced(text, r"\.0*$", "")
    return f"""CASE
        -- the usual forms first: trim() alone takes longer than all of this
        WHEN regexp_full_match({column}, {literal(USUAL)}) THEN try_cast({column} AS TIMESTAMPTZ)
        WHEN regexp_full_match({column}, {literal(USUAL_MAIL)}) THEN coalesce(
            try_strptime({column}, '%a, %d %b %Y %H:%M:%S GMT')::TIMESTAMPTZ,
            try_strptime({column}, '%a, %d %b %Y %H:%M:%S %z')
        )
        WHEN regexp_full_match({text}, {literal(NUMBER)}) THEN {_time_of_number(digits)}
        WHEN regexp_full_match({_canonical(text)}, {literal(WHOLE)}) THEN try_cast({_canonical(text)} AS TIMESTAMPTZ)
    END"""


def possible_time(column: str, now: datetime) -> str:
    """SQL of a TIMESTAMPTZ column; NULL for a time before 1900, or after the day after `now` (in UTC)."""
    end = datetime.combine((now + timedelta(days=2)).date(), datetime.min.time(), UTC)
    return (
        f"CASE WHEN {column} >= TIMESTAMPTZ '{FIRST_TIME} 00:00:00+00' AND {column} < TIMESTAMPTZ '{end.isoformat()}' "
        f"THEN {column} END"
    )


def _time_of_number(text: str) -> str:
    """1767600000, the same in milli-, micro- or nanoseconds, 20260105 and 20260105080000."""
    number = f"try_cast({text} AS DOUBLE)"
    return rf"""CASE
        WHEN regexp_full_match({text}, '(19|20)\d{{6}}') THEN try_strptime({text}, '%Y%m%d')::TIMESTAMPTZ
        WHEN regexp_full_match({text}, '(19|20)\d{{12}}') THEN try_strptime({text}, '%Y%m%d%H%M%S')::TIMESTAMPTZ
        -- 202601050800: that minute, or milliseconds in 1976?
        WHEN regexp_full_match({text}, '(19|20)\d{{10}}') AND try_strptime({text}, '%Y%m%d%H%M') IS NOT NULL THEN NULL
        WHEN {number} < 1e8 OR {number} >= 1e20 THEN NULL
        ELSE make_timestamp(CAST({number} * CASE
            WHEN {number} < 1e11 THEN 1e6 WHEN {number} < 1e14 THEN 1e3 WHEN {number} < 1e17 THEN 1 ELSE 1e-3
        END AS BIGINT))::TIMESTAMPTZ
    END"""


def _canonical(text: str) -> str:
    """SQL of a text as `2026-1-5 08:00:00+01`, whatever form it has; another text if it is no time."""
    forms = {
        ISO: r"\1-\2-\3 \4 \5",
        COMPACT: r"\1-\2-\3 \4:\5:\6 \7",
        MAIL: r"\3-\2-\1 \4 \5",
        AMERICAN: r"\3-\1-\2  ",
        C_TIME: r"\5-\1-\2 \3 \4",
    }
    cases = [
        f"WHEN regexp_matches({text}, {literal(form)}) THEN {_replaced(text, form, parts)}"
        for form, parts in forms.items()
    ]
    shaped = f"CASE {' '.join(cases)} END"
    steps = [
        # two digits of a year, by RFC 2822
        (r"^([0-4]\d)-", r"20\1-"),
        (r"^([5-9]\d)-", r"19\1-"),
        *((f"(?i)-(?:{month})-", f"-{number}-") for number, month in enumerate(MONTHS, start=1)),
        (r"^(\S+)  ", r"\1 00:00 "),  # no clock
        (r":( |$)", r"\1"),  # no seconds
        (r",(\d)", r".\1"),
        (r"([+-]\d\d:?\d\d|GMT|UTC)\s*\([^)]*\)$", r"\1"),  # +0100 (CET)
        (r"([Zz]|[+-]\d\d:?\d\d)\[.*\]$", r"\1"),  # Java: +01:00[Europe/Paris]
        (r"\[([A-Za-z_]+/[A-Za-z_/+-]+)\]$", r" \1"),
        *((rf"(?i)(\d)\s*(?:{names})$", rf"\g{offset}") for offset, names in ZONES.items()),
        (r"(?i)(:\d\d(?:\.\d+)?)\s*(?:GMT|UTC)?\s*([+-]\d\d(?::?\d\d)?)$", r"\1\2"),
        (r"\s+", " "),
    ]
    for pattern, replacement in steps:
        shaped = _replaced(shaped, pattern, replacement.replace(r"\g", r"\1"), "g" if pattern == r"\s+" else "")
    return f"rtrim({shaped})"


def _replaced(text: str, pattern: str, replacement: str, options: str = "") -> str:
    flags = f", '{options}'" if options else ""
    return f"regexp_replace({text}, {literal(pattern)}, {literal(replacement)}{flags})"
