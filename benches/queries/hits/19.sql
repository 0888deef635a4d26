SELECT sum(screen_width), sum(screen_width + 1), sum(screen_width + 2), sum(screen_width + 3), sum(screen_width + 4), sum(screen_width + 5), sum(screen_width + 6), sum(screen_width + 7) FROM hits
