SELECT count(*) FROM hits WHERE user_id = 435090932900
