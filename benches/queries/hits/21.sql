SELECT url, count(*) AS n FROM hits WHERE counter_id = 62 AND event_date BETWEEN DATE '2026-01-10' AND DATE '2026-01-20' GROUP BY url ORDER BY n DESC, url LIMIT 10
