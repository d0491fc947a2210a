"""Generate with onnxruntime-genai's own C++ loop, as a server would: for smoke tests and speed.

    with GenaiModel(Path("folder"), threads=1) as model:
        run = model.generate([1, 2, 3], 32)

The folder holds `genai_config.json`, the graph that it names, and a tokenizer. Logits of all
positions are `runtimes.ort_decoder`'s matter.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.closing import Closing
from common.errors import UserError
from common.files import can_be_a_file, read_object, write_json
from common.in_use import note
from common.scratch import ScratchFolder
from runtimes.ort import explain
from runtimes.ort_graph import GENAI_CONFIG, genai_decoder


@dataclass(frozen=True)
class GenaiRun:
    """Tokens of a greedy continuation, without the prompt's; seconds to the first one, which is the
    prompt's time, and from there to the last."""

    token_ids: tuple[int, ...]
    ttft_sec: float
    decode_sec: float


class GenaiModel(Closing):
    """A loaded model. Raises `UserError` when the folder is broken or this genai cannot run it.

    `threads` goes into a copy of the config, since genai takes it from nowhere else.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        import onnxruntime_genai as genai

        config = _config(folder)
        self._copy = ScratchFolder("genai")
        self._genai: Any = genai
        try:
            made = Path(self._copy.name)
            for path in folder.iterdir():
                if path.is_file() and path.name != GENAI_CONFIG:
                    _link(path, made / path.name)
            if threads:
                options = config["model"]["decoder"].setdefault("session_options", {})
                options["intra_op_num_threads"] = threads
            write_json(made / GENAI_CONFIG, config)
            note("onnxruntime-genai", folder)
            self._model: Any = genai.Model(str(made))
        except Exception as error:  # genai raises RuntimeError with onnxruntime's words in it
            self._copy.cleanup()
            if isinstance(error, UserError):
                raise
            file = folder / str(config["model"]["decoder"]["filename"])
            raise explain(file, str(error)) from None

    def close(self) -> None:
        """Free the model."""
        self._model = None
        self._copy.cleanup()

    def generate(self, prompt_ids: Sequence[int], new_tokens: int) -> GenaiRun:
        """Greedy tokens after the prompt; ends early at the config's end tokens."""
        import numpy as np

        parameters = self._genai.GeneratorParams(self._model)
        parameters.set_search_options(
            max_length=len(prompt_ids) + new_tokens, do_sample=False, batch_size=1
        )
        generator = self._genai.Generator(self._model, parameters)
        start = time.perf_counter()
        generator.append_tokens(np.asarray([list(prompt_ids)], np.int32))
        tokens: list[int] = []
        first = start
        while not generator.is_done() and len(tokens) < new_tokens:
            generator.generate_next_token()
            tokens.append(int(generator.get_next_tokens()[0]))
            first = time.perf_counter() if len(tokens) == 1 else first
        return GenaiRun(tuple(tokens), first - start, time.perf_counter() - first)


def _config(folder: Path) -> dict[str, Any]:
    config = read_object(folder / GENAI_CONFIG)
    name = genai_decoder(folder / GENAI_CONFIG).get("filename")
    if not isinstance(name, str) or Path(name).name != name or not can_be_a_file(name):
        raise UserError(f"{folder / GENAI_CONFIG} names no decoder", "export it again")
    if not (folder / name).is_file():
        raise UserError(f"ONNX file {folder / name} is missing", "export it again")
    if foreign := sorted(set(_foreign_code(config))):
        raise UserError(
            f"{folder / GENAI_CONFIG} makes the engine load code of its own: {', '.join(foreign)}",
            "take these settings out; CPUs need none of them",
        )
    return config


def _foreign_code(value: Any) -> Iterator[str]:
    """Settings by which genai loads a shared library: operators, and providers but the CPU's."""
    if isinstance(value, list):
        for item in value:
            yield from _foreign_code(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if "library" in name or name.endswith("_path"):
                yield name
            elif name == "provider_options":
                named = item if isinstance(item, list) else [item]
                named = [one for one in named if isinstance(one, dict)]
                yield from (key for one in named for key in one if key.lower() != "cpu")
            else:
                yield from _foreign_code(item)


def _link(path: Path, target: Path) -> None:
    try:
        target.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, target)
