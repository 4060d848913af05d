"""A worker with grpcio's health service: `python grpc_health_server.py HTTP_PORT GRPC_PORT`.

Its health path over HTTP answers 200 throughout. `PUT /status/NOT_SERVING` and `PUT /status/SERVING` change what gRPC
says of the service "embedder". `POST /work` calls a slow method over gRPC; it takes four calls at once.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVICE = "embedder"
SLOW_METHOD = "/embedder/Embed"
SLOW_SECONDS = 0.5
MOST_CALLS = 4


def serve(http_port: int, grpc_port: int) -> None:
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(MOST_CALLS), maximum_concurrent_rpcs=MOST_CALLS)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_generic_rpc_handlers((SlowHandler(),))
    assert server.add_insecure_port(f"127.0.0.1:{grpc_port}") == grpc_port
    servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{grpc_port}")
    call = channel.unary_unary(SLOW_METHOD)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.say(200)

        def do_PUT(self) -> None:
            servicer.set(SERVICE, health_pb2.HealthCheckResponse.ServingStatus.Value(self.path.rpartition("/")[2]))
            self.say(200)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            try:
                call(b"", timeout=60)
            except grpc.RpcError as error:
                busy = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
                self.say(429 if busy else 500)
            else:
                self.say(200)

        def say(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    Server(("127.0.0.1", http_port), Handler).serve_forever()


class Server(ThreadingHTTPServer):
    request_queue_size = 128


class SlowHandler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The method that takes its time."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != SLOW_METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(self.work)

    def work(self, _request: bytes, _context: grpc.ServicerContext) -> bytes:
        time.sleep(SLOW_SECONDS)
        return b""


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
