SELECT date_trunc('hour', event_time) AS hour, count(*) AS n FROM hits WHERE event_date >= DATE '2026-01-24' GROUP BY hour ORDER BY hour
