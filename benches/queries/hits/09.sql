SELECT region_id, sum(advertiser_id), count(*) AS n, avg(screen_width), count(DISTINCT user_id) FROM hits GROUP BY region_id ORDER BY n DESC, region_id LIMIT 10
