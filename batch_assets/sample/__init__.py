"""The bundled sample of articles, `articles.jsonl`."""
