SELECT advertiser_id, count(*) AS n FROM hits WHERE advertiser_id <> 0 GROUP BY advertiser_id ORDER BY n DESC, advertiser_id
