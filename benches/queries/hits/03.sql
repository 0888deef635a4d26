SELECT sum(advertiser_id), count(*), avg(screen_width) FROM hits
