"""The process of the small model: `python -m … WEIGHTS`, with the server's key as a line on standard input.

It prints the server's address. It ends at the end of its standard input, and so also when the process that started it
is killed.
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
    # More threads would wait for each other, since other processes use the cores too, and be slower.
    threads = max(1, (os.cpu_count() or 1) // 2)
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    # The defaults of a request. With penalties on repetition the model invented more.
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
