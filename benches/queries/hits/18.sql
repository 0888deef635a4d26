SELECT counter_id, avg(length(url)) AS bytes, count(*) AS n FROM hits WHERE url <> '' GROUP BY counter_id HAVING count(*) > 1000 ORDER BY bytes DESC, counter_id LIMIT 25
