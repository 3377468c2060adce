"""The process in which llama.cpp serves one GGUF file over loopback HTTP: `python -m fledge.runtime.worker`.

Reads one JSON line of settings from stdin (`path, adapter, context_tokens, parallel, threads, api_key, embeds`), and
writes one JSON line `{"url": ...}` to stdout when it is ready, and runs until stdin ends. Whatever goes wrong ends the
process; the words are on stderr. Started by `fledge.runtime.llama` through `fledge.runtime.process`, which explains
the shape.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

LOG_WARNINGS = 2  # llama.cpp's verbosity: errors and warnings, no line per request


def claim_stdout() -> int:
    """Return a descriptor of the real stdout and let everybody else's stdout, native code included, go to stderr."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    return stdout


def start(settings: dict[str, Any]) -> Any:
    """Return a running `xllamacpp.Server` with the model, and the adapter if any at full strength."""
    import xllamacpp  # after claim_stdout: loading it may already print

    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    if settings["adapter"] is not None:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(settings["adapter"], 1.0)]
    params.n_ctx = settings["context_tokens"] * settings["parallel"]
    params.n_parallel = settings["parallel"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["api_key"]]
    params.ui = False
    params.verbosity = LOG_WARNINGS
    # The trial load that fits a model to the memory of a GPU doubles the start time; the context is set above.
    params.fit_params = False
    # A second cache of old prompts, up to 8 GiB of RAM by default. Each slot keeps its last prompt without it.
    params.cache_ram_mib = 0
    # Text comes back as the model wrote it: no cutting out of "thoughts", no re-opening of a closed assistant turn.
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    params.force_pure_content_parser = True
    params.prefill_assistant = False
    if settings["embeds"]:
        params.embedding = True
        # A text is what its tokens mean on average: right for models that were not trained to say it in one of them.
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        # A text is read at once.
        params.n_batch = params.n_ubatch = settings["context_tokens"]
    return xllamacpp.Server(params)


def main() -> None:
    stdout = claim_stdout()
    server = start(json.loads(sys.stdin.readline()))
    os.write(stdout, json.dumps({"url": server.listening_address}).encode() + b"\n")
    sys.stdin.read()
    # Not sys.exit: destructors would wait for requests in flight, and there is nothing left that wants the answers.
    os._exit(0)


if __name__ == "__main__":
    main()
