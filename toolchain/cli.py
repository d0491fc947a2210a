"""The command line: a table of verbs; each verb's module is imported only when it is asked for.

edgeforge build --target jetson --model PATH_OR_HUB_ID
"""

from __future__ import annotations

import argparse
import errno
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from common.errors import EXIT_BAD_INPUT, Told, UserError, near_names
from common.resources import explained
from common.stopping import Ended, tidy_when_ended
from common.terminal import shown

# verb → module with HELP (one line), EXAMPLES, add_arguments(parser) and run(args) -> exit code.
VERBS = {
    "advise": "toolchain.commands.advise",
    "check": "toolchain.commands.check",
    "build": "toolchain.commands.build",
    "plan": "toolchain.commands.plan",
    "search": "toolchain.commands.search",
    "smoke": "toolchain.commands.smoke",
    "bench": "toolchain.commands.bench",
    "report": "toolchain.commands.report",
    "ollama": "toolchain.commands.ollama",
    "evaluate": "toolchain.commands.evaluate",
    "chat": "toolchain.commands.chat",
    "generate": "toolchain.commands.generate",
    "classify": "toolchain.commands.classify",
    "serve": "toolchain.commands.serve",
    "verify": "toolchain.commands.verify",
    "sign": "toolchain.commands.sign",
    "bundle": "toolchain.commands.bundle",
    "data": "toolchain.commands.data",
    "prune": "toolchain.commands.prune",
    "prune-vocab": "toolchain.commands.prune_vocab",
    "sparsify": "toolchain.commands.sparsify",
    "finetune": "toolchain.commands.finetune",
    "distill": "toolchain.commands.distill",
    "teacher-cache": "toolchain.commands.teacher_cache",
    "merge": "toolchain.commands.merge",
    "embed-gguf": "toolchain.commands.embed_gguf",
    "targets": "toolchain.commands.targets",
    "doctor": "toolchain.commands.doctor",
}
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; a `UserError`, or a lack of what the machine has, becomes one clear message and
    exit code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.stdout = shown(sys.stdout)
    try:
        with tidy_when_ended():
            return _dispatch(arguments)
    except KeyboardInterrupt:
        return _stopped(EXIT_INTERRUPTED)
    except Ended as end:
        return _stopped(int(str(end.code)))
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        told = error if isinstance(error, Told) else explained(error) or _of_a_name(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _of_a_name(error: Exception) -> UserError | None:
    """The error for a name that no file can have, wherever it was given."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UserError(
            f"{str(error.filename)[:80]}… is too long for a name", "give a shorter one"
        )
    return None


def _stopped(code: int) -> int:
    print("stopped; finished stages are kept, run the same command to go on", file=sys.stderr)
    return code


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(f"edgeforge {version('edgeforge')}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    _require_utf8(*arguments, _current_folder())
    if verb not in VERBS:
        raise UserError(f"unknown verb '{verb}'", near_names(verb, VERBS))
    module = importlib.import_module(VERBS[verb])
    args = _parser(verb, module).parse_args(rest)
    return int(module.run(args))


def _current_folder() -> str:
    """Where every relative path begins."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        raise UserError("the current folder has been removed", "change to another one") from None


def _require_utf8(*texts: str) -> None:
    """Names in other encodings are names to Linux, but tokenizers and engines cannot open them."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"'{text}' is no UTF-8, and tokenizers and engines open no such name",
                "rename the file or folder",
            ) from None


def overview() -> str:
    """What `edgeforge --help` prints, derived from the verbs' own lines."""
    lines = ["usage: edgeforge VERB [options]", "", "verbs:"]
    modules = {verb: importlib.import_module(name) for verb, name in VERBS.items()}
    lines += [f"  {verb:<10} {module.HELP}" for verb, module in modules.items()]
    lines += ["", "examples:"]
    lines += [f"  {module.EXAMPLES[0]}" for module in modules.values()]
    lines += ["", "edgeforge VERB --help lists a verb's options."]
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    """A wrong option is bad input like any other: one line, a hint, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}", f"{self.prog} --help lists its options")


def _parser(verb: str, module: Any) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"edgeforge {verb}",
        description=module.HELP,
        epilog="\n".join(["examples:", *(f"  {line}" for line in module.EXAMPLES)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser
