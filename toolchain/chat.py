"""A conversation with a model, line by line: history, commands, streamed answers.

Answers go to `out`, prompts and notes to `notes`, so that a pipe gets the answers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TextIO

from common.errors import UserError, near_names
from runtimes.streaming import text_pieces
from toolchain.models import OpenModel

COMMANDS = {
    "/reset": "forget the conversation; the system message stays",
    "/system": "/system TEXT sets the system message and starts anew; without TEXT it is removed",
    "/help": "this list",
    "/exit": "end (also Ctrl-D); Ctrl-C stops an answer",
}


@dataclass
class Chat:
    """The state of a session. `turns` are messages of user and assistant, oldest first."""

    model: OpenModel
    out: TextIO
    notes: TextIO
    max_tokens: int = 512
    temperature: float = 0.0
    seed: int | None = None
    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)

    def run(self, read_line: Callable[[], str | None]) -> None:
        """Answer lines until `read_line` gives None or the user leaves.

        Raises `UserError` only for what no further line could mend.
        """
        if not self.model.chat_template:
            self._note("no chat template: this base model goes on with each line, without history")
        while (line := read_line()) is not None:
            text = line.strip()
            if text.startswith("/"):
                if not self._command(text):
                    return
            elif text:
                self._answer_or_note(text)

    def answer(self, text: str) -> str:
        """Stream the answer to a user's message and keep both in the history.

        An answer that the user stops stays as far as it came. Raises `UserError`, and then leaves
        the history as it was, when the message does not fit or the template refuses it.
        """
        before = list(self.turns)
        self.turns.append({"role": "user", "content": text})
        pieces: list[str] = []
        try:
            prompt = self._fitting_prompt()
            for piece in self._stream(prompt):
                pieces.append(piece)
                self.out.write(piece)
                self.out.flush()
        except KeyboardInterrupt:
            self._note("stopped")
        except BaseException:
            self.turns = before
            raise
        self.out.write("\n")
        self.out.flush()
        self.turns.append({"role": "assistant", "content": "".join(pieces)})
        return self.turns[-1]["content"]

    def _answer_or_note(self, text: str) -> None:
        try:
            self.answer(text)
        except UserError as error:
            self._note(str(error))

    def _command(self, text: str) -> bool:
        """Do what a line with a slash says; whether the session goes on."""
        name, _, rest = text.partition(" ")
        if name == "/exit":
            return False
        if name == "/help":
            for command, what in COMMANDS.items():
                self._note(f"{command:<8} {what}")
        elif name == "/reset":
            self.turns.clear()
            self._note("conversation forgotten")
        elif name == "/system":
            self.system = rest.strip() or None
            self.turns.clear()
            self._note("system message set" if self.system else "system message removed")
        else:
            self._note(f"unknown command {name}; {near_names(name, COMMANDS)}")
        return True

    def _messages(self) -> list[dict[str, str]]:
        if not self.model.chat_template:
            return self.turns[-1:]
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.turns]

    def _fitting_prompt(self) -> list[int]:
        """The conversation's token ids; the oldest turns go until an answer has room too."""
        dropped = 0
        room = self.model.context_tokens - self.max_tokens
        prompt = self.model.prompt_ids(self._messages())
        while len(prompt) > room and len(self.turns) > 2:
            del self.turns[:2]
            dropped += 1
            prompt = self.model.prompt_ids(self._messages())
        if dropped:
            turns = "turn" if dropped == 1 else "turns"
            self._note(f"the context is full: the oldest {dropped} {turns} dropped")
        if not prompt or len(prompt) > room:
            raise UserError(
                f"the message takes {len(prompt)} tokens; with {self.max_tokens} for the answer "
                f"it does not fit the context of {self.model.context_tokens}",
                "write less, or lower --max-tokens or raise --context",
            )
        return prompt

    def _stream(self, prompt: list[int]) -> Iterator[str]:
        tokens = self.model.stream(
            prompt, self.max_tokens, temperature=self.temperature, seed=self.seed
        )
        return text_pieces(tokens, self.model.runtime.detokenize)

    def _note(self, text: str) -> None:
        print(text, file=self.notes, flush=True)
