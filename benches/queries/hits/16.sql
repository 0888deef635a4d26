SELECT * FROM hits WHERE url LIKE '%market%' ORDER BY event_time LIMIT 10
