#!/usr/bin/env python3
"""moto's S3 server, with atomic conditional writes: `s3_server.py HOST PORT`.

As `python -m moto.server`, but for one thing. moto looks whether a key exists and stores it in two steps, and serves
every request on a thread of its own, so that of two conditional creates at the same moment both may succeed. S3 lets one
win, and isobar refuses a store that does not. Here whatever writes waits for the write before it; a request's body is
read before that, so that a slow sender holds up nobody.
"""

import io
import signal
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple
from werkzeug.wsgi import get_input_stream

WRITES = ("PUT", "POST", "DELETE")


def one_write_at_a_time(application):
    lock = threading.Lock()

    def serve(environ, start_response):
        if environ["REQUEST_METHOD"] not in WRITES:
            return application(environ, start_response)
        body = get_input_stream(environ).read()
        environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        environ.pop("wsgi.input_terminated", None)
        with lock:
            answer = application(environ, start_response)
            try:
                return [b"".join(answer)]
            finally:
                getattr(answer, "close", lambda: None)()

    return serve


def main():
    host, port = sys.argv[1], int(sys.argv[2])
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: sys.exit(0))
    backends = DomainDispatcherApplication(create_backend_app)
    run_simple(host, port, one_write_at_a_time(backends), threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main()
