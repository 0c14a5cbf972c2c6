"""The bundled sample: `articles.sql`, a daily stream of articles, and `pictures.sql`."""
