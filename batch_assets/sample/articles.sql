-- The bundled stream of articles: every five days, the five days of articles.jsonl again.
-- From 10 January 2026 on, a text ends with its day. So it is a text of its own, and a new request.
WITH sample AS (
    SELECT
        * EXCLUDE (published_at),
        published_at::TIMESTAMPTZ AS first_at,
        $day - DATE '2026-01-05' AS days
    FROM read_json(
        'articles.jsonl',
        format = 'newline_delimited',
        columns = {
            id: 'VARCHAR', title: 'VARCHAR', body: 'VARCHAR', url: 'VARCHAR', published_at: 'VARCHAR'
        },
        filename = true
    )
)
SELECT
    id,
    title,
    CASE
        WHEN days >= 5 AND regexp_matches(body, '[^\s\p{Z}\p{C}]')
        THEN body || strftime($day, E'\n\nFirst published on %-d %B %Y.')
        ELSE body
    END AS body,
    url,
    first_at + INTERVAL 1 DAY * (days - days % 5) AS published_at,
    filename
FROM sample
WHERE days >= 0 AND first_at::DATE - DATE '2026-01-05' = days % 5;
