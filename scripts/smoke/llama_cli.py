"""llama.cpp's programs that answer one prompt and end, where nothing better is there.

Each answer loads the model again, and only text comes out.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .bundle import CannotRun, adapter_of, bos_text, read_prompts
from .child import complaint, find_program, output_of
from .engine import Answer, NotThere, Work
from .llama_server import layers_option, llama_version, server_options
from .processes import children_peak_rss_bytes

ANSWER_TIMEOUT_SEC, END_OF_TEXT = 1800.0, " [end of text]"
TRIES = 8  # some versions of llama-completion end before their log is written out


@dataclass(frozen=True)
class Output:
    """Text behind the prompt, and the program's own counts and times."""

    text: str
    prompt: Work
    generated: Work
    stopped: bool


class LlamaCli:
    """`llama-simple` (greedy and nothing else), `llama-completion`, or an older `llama-cli`."""

    name = "llama-cli"
    install = "build llama.cpp (https://github.com/ggml-org/llama.cpp) and put it on PATH"

    def __init__(self) -> None:
        program = find_program("llama-simple", "llama-completion", "llama-cli")
        if program is None:
            raise NotThere("none of llama-simple, llama-completion and llama-cli is on PATH")
        self._program = program
        self._simple = Path(program).name == "llama-simple"
        self._known = "" if self._simple else output_of([program, "--help"])
        if not self._simple and "-no-cnv" not in self._known:
            raise NotThere(f"{program} only chats, and llama-completion is not on PATH")
        # llama-simple does not tell its version.
        self.version = "" if self._simple else llama_version(output_of([program, "--version"]))
        self.features = Path(program).name
        self.sweeps = False
        self._options: list[str] = []
        self._bos, self._adds_bos = "", False
        self._samples: list[str] = []

    @property
    def pid(self) -> int | None:
        return None  # there is none between two answers

    def load(self, model: Path, profile: dict[str, Any], context: int, threads: int) -> None:
        bundle = model.parent
        rows = sorted(read_prompts(bundle), key=lambda row: -len(row["expected_token_ids"]))
        self._samples = [row["prompt"] for row in rows]
        if self._simple and adapter_of(model, profile):
            raise CannotRun("llama-simple takes no adapter, and this bundle has one")
        if self._simple:  # it knows no other option
            self._options = ["-m", str(model), "-ngl", layers_option(profile)]
        else:
            self._options = server_options(self._known, model, profile, context)
            self._options += ["-t", str(threads), "-no-cnv", "--no-display-prompt", "--temp", "0"]
            known = ("--simple-io", "--perf")
            self._options += [option for option in known if option in self._known]
        self._bos = bos_text(bundle)
        self._adds_bos = self._run(self._bos or "a", 1).prompt.tokens > 1 and bool(self._bos)

    def set_threads(self, threads: int) -> None:
        """It keeps those that it was loaded with."""

    def answer(self, prompt: str, add_special: bool, max_new_tokens: int) -> Answer:
        if self._adds_bos and not add_special and prompt.startswith(self._bos):
            prompt = prompt[len(self._bos) :]
        made = self._run(prompt, max_new_tokens)
        return Answer(
            prompt_token_ids=None,
            prompt_tokens=made.prompt.tokens,
            token_ids=None,
            text=made.text,
            raw_text=made.text,
            stopped=made.stopped,
            ttft_sec=made.prompt.sec,
        )

    def prefill(self, count: int) -> Work:
        text = " ".join(str(31 * index % 1000) for index in range(count))
        return self._run(text[: 2 * count], 1).prompt

    def decode(self, count: int) -> Work:
        works = []
        for prompt in self._samples:
            works.append(self._run(prompt, count).generated)
            if sum(work.tokens for work in works) >= count:
                break
        total = Work(sum(work.tokens for work in works), sum(work.sec for work in works))
        if not total.tokens:
            raise CannotRun("the model answers no prompt of this bundle with more than one token")
        return total

    def peak_rss(self) -> int | None:
        return children_peak_rss_bytes()

    def close(self) -> None:
        """Nothing runs between two answers."""

    def _run(self, prompt: str, count: int) -> Output:
        """One answer; again where the program lost the end of what it had to say."""
        for _ in range(TRIES):
            said, log = self._say(prompt, count)
            works = [perf_of(log, kind) for kind in ("prompt eval time", "eval time")]
            if works[0] is not None:
                text, stopped = self._cut(said, log, prompt, count)
                return Output(text, works[0], works[1] or Work(0, 0.0), stopped)
        raise CannotRun(f"{self.features} does not tell its times: {complaint(log)}")

    def _say(self, prompt: str, count: int) -> tuple[str, str]:
        with tempfile.NamedTemporaryFile("wb") as file:
            file.write(prompt.encode("utf-8"))
            file.flush()
            # A binary file is taken as it is; from a text file the last newline is cut.
            source = [prompt] if self._simple else ["-bf", file.name]
            command = [self._program, *self._options, "-n", str(count), *source]
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=ANSWER_TIMEOUT_SEC,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise CannotRun(f"{self.features} does not answer: {error}") from None
        said, log = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
        if done.returncode != 0:
            raise CannotRun(f"{self.features} refuses: {complaint(log)}")
        return said, log

    def _cut(self, said: str, log: str, prompt: str, count: int) -> tuple[str, bool]:
        """The answer alone, and whether it stopped by itself."""
        if not self._simple:
            text = said.rstrip("\n")
            stopped = text.endswith(END_OF_TEXT)
            return (text[: -len(END_OF_TEXT)] if stopped else text), stopped
        _, echo, text = said.partition(prompt)
        decoded = re.search(r"decoded (\d+) tokens", log)
        if not echo or decoded is None:
            raise CannotRun("llama-simple does not repeat the prompt that it was given")
        return text[:-1] if text.endswith("\n") else text, int(decoded.group(1)) < count


def perf_of(log: str, kind: str) -> Work | None:
    """Tokens and time from llama.cpp's `prompt eval time = 32.30 ms / 14 tokens` lines."""
    line = rf"print:\s+{kind} =\s*([\d.]+) ms /\s*(\d+) (?:tokens|runs)"
    found = re.search(line, log)
    return Work(int(found.group(2)), float(found.group(1)) / 1000) if found else None
