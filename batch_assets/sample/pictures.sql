-- The pictures of pictures.jsonl, on each day again: a picture that has a caption is not asked for again.
SELECT
    id,
    title,
    picture,
    $day + published_at::TIMESTAMPTZ::TIMESTAMP::TIME AS published_at,
    filename
FROM read_json(
    'pictures.jsonl',
    format = 'newline_delimited',
    columns = {id: 'VARCHAR', title: 'VARCHAR', picture: 'VARCHAR', published_at: 'VARCHAR'},
    filename = true
)
WHERE $day >= DATE '2026-01-05';
