"""The time of a row as SQL: macros that read what feeds and exports have as times, and nothing ambiguous.

A time without a zone is UTC. `01/05/26` and names of zones with several meanings (`BST`, `IST`) are not read.
"""

from datetime import UTC, datetime, timedelta

import duckdb

FIRST_TIME = "1900-01-01"  # earlier times are mistakes: a year of two digits, a default
MONTHS = "['jan','feb','mar','apr','may','jun','jul','aug','sep','oct','nov','dec']"
ENDS_OF_MONTHS = "['uary','ruary','ch','il','','e','y','ust','tember','ober','ember','ember']"
# The zones of RFC 822 and of Central Europe. https://www.rfc-editor.org/rfc/rfc2822#section-4.3
ZONES = (
    "MAP {'': '+00', 'Z': '+00', 'UT': '+00', 'UTC': '+00', 'GMT': '+00', 'EST': '-05', 'EDT': '-04', 'CST': '-06', "
    "'CDT': '-05', 'MST': '-07', 'MDT': '-06', 'PST': '-08', 'PDT': '-07', 'CET': '+01', 'CEST': '+02', 'EET': '+02', "
    "'EEST': '+03', 'WET': '+00', 'WEST': '+01'}"
)
CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?"

MACROS = {
    # an offset, a name of a zone, or both in Java's way: +01:00[Europe/Paris]
    "zone_of(zone)": rf"""
        CASE
            WHEN regexp_full_match(zone, '[+-]\d\d(:?\d\d)?') THEN zone
            WHEN regexp_full_match(zone, '\[?[A-Za-z_]+/[A-Za-z_/+-]+\]?') THEN ' ' || trim(zone, '[]')
            WHEN regexp_full_match(zone, '([Zz]|[+-]\d\d:?\d\d)\[.*\]') THEN upper(regexp_extract(zone, '^[^\[]+'))
            WHEN regexp_full_match(zone, '(GMT|UTC)[+-]\d\d:?\d\d.*') THEN regexp_extract(zone, '[+-]\d\d:?\d\d')
            ELSE {ZONES}[upper(trim(zone, '()[]'))]
        END""",
    "time_of_parts(year, month, day, clock, zone)": """
        try_cast(
            concat(year, '-', month, '-', day, ' ', coalesce(nullif(replace(clock, ',', '.'), ''), '00:00'),
                zone_of(regexp_replace(trim(zone), '\\s*\\([^)]*\\)$', '')))
            AS TIMESTAMPTZ
        )""",
    # three letters are not enough: marraskuu is Finnish for November
    "month_of(name)": f"""
        CASE WHEN strlen(name) = 3
            OR starts_with({ENDS_OF_MONTHS}[list_position({MONTHS}, lower(left(name, 3)))], lower(name[4:]))
        THEN list_position({MONTHS}, lower(left(name, 3))) END""",
    # 2026-01-05T08:00:00+01:00, and what is near to it
    "time_of_iso(text)": r"""
        CASE WHEN zone_of(trim(iso_parts(text).zone)) IS NOT NULL THEN time_of_parts(
            iso_parts(text).year, iso_parts(text).month, iso_parts(text).day, iso_parts(text).clock,
            iso_parts(text).zone
        ) END""",
    "iso_parts(text)": rf"""
        regexp_extract(
            text, '^(\d{{4}})[-/](\d{{1,2}})[-/](\d{{1,2}})(?:[Tt_ ]+({CLOCK}))?\s*(.*)$',
            ['year', 'month', 'day', 'clock', 'zone']
        )""",
    "time_of_amount(number)": """
        make_timestamp(CAST(CASE
            WHEN number < 1e8 THEN NULL
            WHEN number < 1e11 THEN number * 1e6
            WHEN number < 1e14 THEN number * 1e3
            WHEN number < 1e17 THEN number
            WHEN number < 1e20 THEN number / 1e3
        END AS BIGINT))::TIMESTAMPTZ""",
    # 1767600000, the same in milli-, micro- or nanoseconds, 20260105 and 20260105080000
    "time_of_number(text)": r"""
        CASE
            WHEN regexp_full_match(text, '(19|20)\d{6}') THEN try_strptime(text, '%Y%m%d')::TIMESTAMPTZ
            WHEN regexp_full_match(text, '(19|20)\d{12}') THEN try_strptime(text, '%Y%m%d%H%M%S')::TIMESTAMPTZ
            -- 202601050800: that minute, or milliseconds in 1976?
            WHEN regexp_full_match(text, '(19|20)\d{10}') AND try_strptime(text, '%Y%m%d%H%M') IS NOT NULL THEN NULL
            ELSE time_of_amount(try_cast(text AS DOUBLE))
        END""",
    # RFC 822: Mon, 05 Jan 2026 08:00:00 GMT
    "mail_parts(text)": rf"""
        regexp_extract(
            text,
            '^(?:[A-Za-z]+\.?,?\s+)?(\d{{1,2}})[ -]([A-Za-z]{{3,}})\.?[ -](\d{{4}}|\d\d)'
                || '(?:,?\s+({CLOCK}))?\s*(.*)$',
            ['day', 'month', 'year', 'clock', 'zone']
        )""",
    # https://www.rfc-editor.org/rfc/rfc2822#section-4.3: 00 to 49 are years from 2000
    "whole_year(year)": """
        CASE WHEN strlen(year) = 4 THEN year WHEN year < '50' THEN '20' || year ELSE '19' || year END""",
    "time_of_mail(text)": """
        CASE WHEN zone_of(regexp_replace(trim(mail_parts(text).zone), '\\s*\\([^)]*\\)$', '')) IS NOT NULL
            AND month_of(mail_parts(text).month) IS NOT NULL
        THEN time_of_parts(
            whole_year(mail_parts(text).year), month_of(mail_parts(text).month), mail_parts(text).day,
            mail_parts(text).clock, mail_parts(text).zone
        ) END""",
    # January 5, 2026 | Mon Jan 05 08:00:00 +0000 2026
    "time_of_words(text)": """
        coalesce(
            try_strptime(text, ['%B %d, %Y', '%b %d, %Y', '%B %d %Y', '%b %d %Y'])::TIMESTAMPTZ,
            try_strptime(text, '%a %b %d %H:%M:%S %Y')::TIMESTAMPTZ,
            try_strptime(text, '%a %b %d %H:%M:%S %z %Y')
        )""",
    "time_of_trimmed(text)": r"""
        CASE
            WHEN regexp_full_match(text, '\d+(\.\d*)?([eE]\+?\d+)?')
                THEN time_of_number(regexp_replace(text, '\.0*$', ''))
            WHEN regexp_matches(text, '^\d{4}[-/]\d') THEN time_of_iso(text)
            WHEN regexp_matches(text, '^\d{8}[Tt]\d{4}') THEN time_of_iso(
                regexp_replace(text, '^(\d{4})(\d\d)(\d\d)[Tt](\d\d)(\d\d)(\d\d)?', '\1-\2-\3T\4:\5:\6')
            )
            WHEN regexp_matches(text, '^([A-Za-z]+\.?,?\s+)?\d{1,2}[ -][A-Za-z]') THEN coalesce(
                try_strptime(text, '%a, %d %b %Y %H:%M:%S GMT')::TIMESTAMPTZ,
                try_strptime(text, '%a, %d %b %Y %H:%M:%S %z'),
                time_of_mail(text)
            )
            WHEN regexp_matches(text, '^[A-Za-z]+ ([A-Za-z]+ +)?\d')
                THEN time_of_words(regexp_replace(text, '\s+', ' ', 'g'))
        END""",
    # the usual forms first: trim() alone takes longer than all of this
    "time_of_text(text)": r"""
        possible_time(CASE
            WHEN regexp_full_match(
                text, '\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?)?'
            ) THEN try_cast(text AS TIMESTAMPTZ)
            ELSE time_of_trimmed(trim(text, chr(32) || chr(9) || chr(13) || chr(10)))
        END)""",
    "possible_time(time)": f"""
        CASE WHEN time >= TIMESTAMPTZ '{FIRST_TIME}' AND time < getvariable('end_of_tomorrow') THEN time END""",
}
# Each macro before those that use it.
ORDER = (
    "zone_of",
    "time_of_parts",
    "month_of",
    "iso_parts",
    "time_of_iso",
    "time_of_amount",
    "time_of_number",
    "mail_parts",
    "whole_year",
    "time_of_mail",
    "time_of_words",
    "time_of_trimmed",
    "possible_time",
    "time_of_text",
)


def create_time_macros(connection: duckdb.DuckDBPyConnection, now: datetime) -> None:
    """Create `time_of_text(VARCHAR)` and `possible_time(TIMESTAMPTZ)`, each a TIMESTAMPTZ or NULL.

    NULL: no time, an ambiguous one, or one before 1900 or after the day after `now` (in UTC).
    """
    end = datetime.combine((now + timedelta(days=2)).date(), datetime.min.time(), UTC)
    connection.execute("SET VARIABLE end_of_tomorrow = CAST(? AS TIMESTAMPTZ)", [end])
    by_name = {signature.partition("(")[0]: (signature, body) for signature, body in MACROS.items()}
    for name in ORDER:
        signature, body = by_name[name]
        connection.execute(f"CREATE OR REPLACE TEMP MACRO {signature} AS ({body})")
