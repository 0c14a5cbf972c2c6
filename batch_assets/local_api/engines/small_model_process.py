"""The process that holds the small model: `python -m … WEIGHTS`, with the server's key as a line on standard input.

Prints the server's address, and ends when its standard input does: with the process that started it, however
that ends.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import ModuleType
from typing import Any

from batch_assets.local_api.engines.small_model import ANSWER_TOKENS, CONTEXT_TOKENS


def _parameters(xllamacpp: ModuleType, weights: str, key: str) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = weights
    parameters.port = 0
    parameters.api_keys = [key]
    parameters.ui = False
    parameters.endpoint_slots = False
    parameters.verbosity = 0
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_predict = ANSWER_TOKENS
    parameters.n_parallel = 1
    parameters.cache_prompt = False
    parameters.cache_ram_mib = 0
    # More would wait for each other on cores that others use too, and be slower than one.
    threads = max(1, (os.cpu_count() or 1) // 2)
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    # For requests that say nothing else. Penalties on repetition made it invent more.
    parameters.sampling.temp = 0.0
    parameters.sampling.seed = 0
    return parameters


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    xllamacpp = importlib.import_module("xllamacpp")  # an extra, and without types
    server = xllamacpp.Server(_parameters(xllamacpp, sys.argv[1], sys.stdin.readline().strip()))
    print(server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
