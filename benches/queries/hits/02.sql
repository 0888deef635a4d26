SELECT count(*) FROM hits WHERE advertiser_id <> 0
