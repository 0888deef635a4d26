SELECT search_phrase, min(url), count(*) AS n FROM hits WHERE url LIKE '%market%' AND search_phrase <> '' GROUP BY search_phrase ORDER BY n DESC, search_phrase LIMIT 10
