"""A real S3 server on this machine (moto's) that can be told to fail, for tests of storage by URL."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from urllib.parse import quote

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


class S3:
    """A server with one empty bucket, until `stop`.

    Attributes:
        requests: how many were answered in all.
        failed: how many were answered with an error.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._application = DomainDispatcherApplication(create_backend_app)
        self._failing_until = 0.0
        self.requests = self.failed = 0
        self._server = make_server(host, 0, self._answer, threaded=True)
        self.address = f"{host}:{self._server.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.client = boto3.client(
            "s3",
            endpoint_url=f"http://{self.address}",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        self.client.create_bucket(Bucket="bucket")

    def url(self, path: str) -> str:
        """The URL of a place in the bucket, as a study names it."""
        return f"s3://bucket/{path}?scheme=http&region=us-east-1&endpoint_override={quote(self.address)}"

    def keys(self) -> list[str]:
        """What is in the bucket."""
        return [entry["Key"] for entry in self.client.list_objects_v2(Bucket="bucket").get("Contents", [])]

    def fail_for(self, seconds: float) -> None:
        """Answer every request with an error for a while."""
        self._failing_until = time.monotonic() + seconds

    def _answer(self, environment: dict, start_response: Callable) -> Iterable[bytes]:
        self.requests += 1
        if time.monotonic() < self._failing_until:
            self.failed += 1
            start_response("503 Service Unavailable", [("Content-Type", "application/xml")])
            return [b"<Error><Code>ServiceUnavailable</Code><Message>Reduce your rate</Message></Error>"]
        return self._application(environment, start_response)

    def stop(self) -> None:
        """End the server."""
        self._server.shutdown()
