"""An S3 server on loopback, by moto, which can be told to fail."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BUCKET = "bucket"
Fails = Callable[[dict[str, Any]], bool]


class Store:
    """A running server with an empty bucket."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.fails: Fails = lambda request: False  # a WSGI environment -> whether the server answers with an error
        self.num_failed = 0

    def uri(self, path: str) -> str:
        """A URI with the server's address, as users of an S3 other than Amazon's write it."""
        return f"s3://{BUCKET}/{path}?endpoint_override={self.url}"


@contextmanager
def serve() -> Iterator[Store]:
    """Run a server while the context lasts."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *arguments: Any) -> None:
            pass

    moto = DomainDispatcherApplication(create_backend_app)
    store = Store("")

    def answer(request: dict[str, Any], start: Callable[..., Any]) -> Any:
        if store.fails(request):
            store.num_failed += 1
            length = request.get("CONTENT_LENGTH")  # without one the body comes in chunks, and ends by itself
            request["wsgi.input"].read(int(length) if length else -1 if request.get("wsgi.input_terminated") else 0)
            start("400 Bad Request", [("Content-Type", "application/xml")])  # an error that no client retries
            return [b"<Error><Code>InvalidRequest</Code><Message>planted</Message></Error>"]
        return moto(request, start)

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Quiet)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store.url = f"http://127.0.0.1:{server.server_port}"
    boto3.client("s3", endpoint_url=store.url, region_name="us-east-1").create_bucket(Bucket=BUCKET)
    try:
        yield store
    finally:
        server.shutdown()


@contextmanager
def credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "moto")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "moto")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield
