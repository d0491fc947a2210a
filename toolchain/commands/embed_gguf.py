"""`edgeforge embed-gguf`: an embedding model as one GGUF file, proven against the checkpoint."""

from __future__ import annotations

import argparse
import json

from common.shell import shell_line
from toolchain.checkpoint_verbs import add_out, opened
from toolchain.options import add_options

ENDING = "gguf"
HELP = "an embedding model as GGUF for llama.cpp, its vectors proven against the checkpoint's"
EXAMPLES = (
    "edgeforge embed-gguf --model PATH_OR_HUB_ID --quantization Q8_0",
    "edgeforge embed-gguf --model PATH --quantization Q4_K_M --text my-texts.txt",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    from pathlib import Path

    add_options(parser, "model")
    add_out(parser, ENDING)
    parser.add_argument(
        "--quantization", default="Q8_0", metavar="TYPE", help="a llama.cpp type (default: Q8_0)"
    )
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="texts to compare (default: the model's own)"
    )
    add_options(parser, "json", "allow_pickle", "trust_remote_code")


def run(args: argparse.Namespace) -> int:
    """Make the file. Raises `UserError` for what is no embedding model, or no equal one."""
    from runtimes.quantizer import canonical_quantization
    from toolchain.chain import text_file
    from toolchain.checkpoint.locate import model_name
    from toolchain.data.text import evaluation_text
    from toolchain.export.gguf.encoder import UNQUANTIZED, embedder_file
    from toolchain.pipeline import say_on_stderr

    wanted = args.quantization
    if wanted.upper() != UNQUANTIZED:
        wanted = canonical_quantization(wanted)
    with opened(args, ENDING) as (folder, source, workspace):
        made = embedder_file(
            source,
            workspace,
            name=model_name(args.model),
            quantization=wanted,
            evaluation=text_file(evaluation_text(folder, args.text), workspace),
            say=say_on_stderr,
            trust_remote_code=args.trust_remote_code,
        )
    file = made.model.only(".gguf")
    gates = {gate["name"]: gate["detail"] for gate in made.parity.measurements["gates"]}
    facts = {"result": str(file), "gates": gates, **made.loss.measurements}
    if args.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return 0
    for name, detail in gates.items():
        print(f"{name}: {detail}")
    print(f"{wanted}: {facts['size_bytes'] / 1e6:.2f} MB, cosine with the unquantized file's "
          f"vectors {facts['cosine_mean']:.5f}, least {facts['cosine_min']:.5f}")  # fmt: skip
    print(f"result: {file}")
    print("next:", shell_line("edgeforge", "evaluate", file, "--against", args.model))
    return 0
