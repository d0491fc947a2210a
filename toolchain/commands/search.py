"""`edgeforge search`: the best quantization, tensor types, pruning and run settings in a budget."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.scratch import ScratchFolder
from toolchain.options import MAKE_VARIABLES, add_options, count

if TYPE_CHECKING:
    from toolchain.search.device import Device
    from toolchain.search.session import SearchRequest, Wanted

HELP = "search types, pruning, context and KV cache for the best within a budget"
EXAMPLES = (
    "edgeforge search --target jetson --max-kld 0.05 --objective decode",
    "edgeforge search --target laptop --objective size --max-kld 0.02 --trials 60 --workers 2",
    "edgeforge search --target jetson --objective kld --max-bytes 4000000 --prune 0,0.1",
    "edgeforge search --target jetson --host user@orin --max-kld 0.05",
    "edgeforge search --target laptop --quantization Q4_K_M,Q5_K_M --tensor-types none",
    "edgeforge search --target laptop --storage postgresql://USER:PASSWORD@HOST/studies",
)


def _numbers(kind: type[int] | type[float]) -> Any:
    def read(text: str) -> tuple[Any, ...]:
        try:
            found = tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"'{text}': give numbers with commas between"
            ) from None
        if any(value < 0 for value in found):
            raise argparse.ArgumentTypeError(f"'{text}': no number may be below 0")
        return found

    return read


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is no number above 0")
    return value


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    from toolchain.search.settings import DEFAULT_STUDY, DEFAULT_TRIALS, OBJECTIVES

    add_options(parser, *MAKE_VARIABLES)
    goal = parser.add_argument_group("what is best")
    goal.add_argument(
        "--objective",
        choices=tuple(OBJECTIVES),
        default="decode",
        help="decode speed, file size, memory on the target, or quality (default: decode)",
    )
    goal.add_argument("--max-kld", type=_positive, metavar="NATS",
                      help="mean KLD to the unquantized original, at most (default: the target's; "
                      "none with --objective kld)")  # fmt: skip
    goal.add_argument("--max-bytes", type=count, metavar="N", help="size of the file, at most")
    goal.add_argument("--max-memory-bytes", type=count, metavar="N",
                      help="weights, KV cache and buffers on the target, at most")  # fmt: skip
    goal.add_argument("--min-decode", type=_positive, metavar="TOKENS_PER_SEC",
                      help="decode speed, at least, as the search measures it")  # fmt: skip
    what = parser.add_argument_group("what may vary (one value fixes it)")
    what.add_argument(
        "--tensor-types",
        action="append",
        default=[],
        metavar="GROUP=TYPES",
        help="types of a group of tensors, such as ffn_down=mix,Q6_K; groups: embedding, output, "
        "attn_v, ffn_down; mix is the type's own; `none` leaves all to the mix; can be repeated",
    )
    what.add_argument("--prune", type=_numbers(float), metavar="RATIOS",
                      help="shares of parameters to remove (default: 0,0.1,0.2)")  # fmt: skip
    what.add_argument("--context", type=_numbers(int), metavar="TOKENS",
                      help="contexts, such as 1024,2048,4096 (default: the target's)")  # fmt: skip
    what.add_argument("--min-context", type=count, metavar="TOKENS",
                      help="leave out shorter contexts")  # fmt: skip
    what.add_argument("--kv-cache", type=_names, metavar="TYPES",
                      help="KV-cache types (default: q4_0,q8_0,f16 where they matter)")  # fmt: skip
    what.add_argument("--threads", type=_numbers(int), metavar="N",
                      help="thread counts to try (default: not varied)")  # fmt: skip
    how = parser.add_argument_group("how")
    how.add_argument("--trials", type=count, default=DEFAULT_TRIALS, metavar="N",
                     help="points to look at, earlier runs of the study included (default: "
                     f"{DEFAULT_TRIALS})")  # fmt: skip
    how.add_argument("--workers", type=count, default=1, metavar="N",
                     help="processes on this machine (default: 1)")  # fmt: skip
    how.add_argument(
        "--speed",
        choices=("auto", "planned", "here"),
        default="auto",
        help="where decode speeds come from; auto: the device with --host, this machine where it "
        "is of the target's kind, else the planner's figures for the target (default: auto)",
    )
    how.add_argument("--study", default=DEFAULT_STUDY, metavar="NAME",
                     help="name of the study; the results lie in OUT/<model>/<target>-NAME/ "
                     f"(default: {DEFAULT_STUDY})")  # fmt: skip
    how.add_argument("--storage", metavar="URL",
                     help="database that several machines share (default: a file beside the "
                     "results)")  # fmt: skip
    how.add_argument("--kld-tokens", type=count, default=4096, metavar="N",
                     help="tokens of the calibration text that rank (default: 4096)")  # fmt: skip
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampler (default: 0)")
    remote = parser.add_argument_group("on a device (docs/devices.md)")
    remote.add_argument("--remote-dir", metavar="DIR",
                        help="where files go (default: ~/.cache/edgeforge/search)")  # fmt: skip
    remote.add_argument("--remote-python", metavar="PATH",
                        help="Python to use there (default: python3)")  # fmt: skip
    remote.add_argument("--ssh-option", action="append", default=[], metavar="NAME=VALUE",
                        help="an option for ssh, such as Port=2222; can be repeated")  # fmt: skip
    remote.add_argument("--ssh-config", type=Path, metavar="FILE", help="ssh's config (ssh -F)")
    add_options(parser, "json", "dry_run", "allow_pickle", "trust_remote_code")


def run(args: argparse.Namespace) -> int:
    """Search and print the front with the best marked; raises `UserError` when nothing is within
    budget."""
    from toolchain.pipeline import say_on_stderr
    from toolchain.report.search import search_table
    from toolchain.search.search import search

    request = search_request(args)
    if args.dry_run:
        print(_plan(request))
        return 0
    found = search(request, say_on_stderr)
    if args.json:
        print(json.dumps(found.data, indent=2, ensure_ascii=False))
        return 0
    print(search_table(found.data))
    shown = _shown(found.folder)
    print(f"recipe: {shown}/recipe.yaml\nreport: {shown}/report.html")
    print(f"next:   {found.data['best']['command']}")
    return 0


def search_request(args: argparse.Namespace) -> SearchRequest:
    """The request that the options name. Raises `UserError` for those that exclude each other."""
    from targets.registry import load_target
    from toolchain.job import BuildRequest
    from toolchain.search.session import SearchRequest
    from toolchain.search.settings import Budget, Fidelity, Settings

    _refuse_contradictions(args)
    target = load_target(args.target)
    max_kld = args.max_kld
    if max_kld is None and args.objective != "kld":
        max_kld = target.quality.max_kld
    settings = Settings(
        objective=args.objective,
        budget=Budget(max_kld, args.max_bytes, args.max_memory_bytes, args.min_decode),
        speed=_speed(args, target),
        fidelity=Fidelity(min(512, max(64, args.kld_tokens // 4)), args.kld_tokens),
        seed=args.seed,
    )
    return SearchRequest(
        build=BuildRequest(
            target=args.target,
            model=args.model,
            recipe=args.recipe,
            out=args.out,
            allow_pickle=args.allow_pickle,
            trust_remote_code=args.trust_remote_code,
        ),
        settings=settings,
        wanted=_wanted(args),
        trials=args.trials,
        workers=args.workers,
        storage=args.storage,
        study=_study_name(args.study),
        device=_device(args),
    )


def _refuse_contradictions(args: argparse.Namespace) -> None:
    from toolchain.search.space import KV_CACHE_TYPES

    if args.data:
        raise UserError("a search trains nothing, so --data has no use", "leave it out")
    if args.host and args.speed != "auto":
        raise UserError(
            f"--host {args.host} and --speed {args.speed} name two places for speeds",
            "leave --speed out to measure on the device",
        )
    if args.min_context and args.context and max(args.context) < args.min_context:
        raise UserError(
            f"--min-context {args.min_context} leaves none of --context "
            f"{','.join(map(str, args.context))}",
            "name a longer context, or lower --min-context",
        )
    unknown = [name for name in args.kv_cache or () if name not in KV_CACHE_TYPES]
    if unknown:
        raise UserError(
            f"unknown KV-cache type '{unknown[0]}'", f"known: {', '.join(KV_CACHE_TYPES)}"
        )
    if args.prune and max(args.prune) > 0.9:
        raise UserError(f"--prune {max(args.prune):g} leaves no model", "0.9 at most")
    if any(tokens < 256 for tokens in args.context or ()):
        raise UserError(f"--context {min(args.context)} is too short", "256 at least")
    if any(threads < 1 for threads in args.threads or ()):
        raise UserError("--threads must be at least 1", "for example --threads 1,2,4")
    if args.kld_tokens < 256:
        raise UserError(f"--kld-tokens {args.kld_tokens} rank nothing", "256 at least")


def _speed(args: argparse.Namespace, target: Any) -> str:
    """Where decode speeds come from."""
    import platform

    from toolchain.search.settings import DEVICE, HERE, PLANNED

    if args.host:
        return DEVICE
    if args.speed != "auto":
        return str(args.speed)
    alike = target.processor.arch == platform.machine() and target.accelerator.kind == "none"
    return HERE if alike else PLANNED


def _wanted(args: argparse.Namespace) -> Wanted:
    from toolchain.search.session import Wanted

    contexts = args.context
    if args.min_context and contexts:
        contexts = tuple(tokens for tokens in contexts if tokens >= args.min_context)
    elif args.min_context:
        contexts = (args.min_context,)
    named = _names(args.quantization) if args.quantization else ()
    return Wanted(
        quantization=None if not named or named == ("auto",) else named,
        tensor_types=_tensor_types(args.tensor_types),
        prune=args.prune,
        context=contexts,
        kv_cache=args.kv_cache,
        threads=args.threads,
    )


def _tensor_types(given: list[str]) -> dict[str, tuple[str, ...]] | None:
    if not given:
        return None
    if given == ["none"]:
        return {}
    found = {}
    for text in given:
        group, equals, types = text.partition("=")
        if not (group and equals and _names(types)):
            raise UserError(
                f"--tensor-types {text}: not of the form GROUP=TYPE,TYPE",
                "for example --tensor-types ffn_down=mix,Q6_K, or --tensor-types none",
            )
        found[group] = _names(types)
    return found


def _study_name(name: str) -> str:
    import re

    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise UserError(f"'{name}' is no name of a study", "letters, digits, dots and dashes")
    return name


def _device(args: argparse.Namespace) -> Device | None:
    from runtimes.remote.ssh import SshOptions, check_host
    from toolchain.search.device import Device

    if not args.host:
        given = ("remote_dir", "remote_python", "ssh_option", "ssh_config")
        lonely = [name for name in given if getattr(args, name)]
        if lonely:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in lonely)
            raise UserError(f"{names} without a device", "name it: --host USER@HOST")
        return None
    usual = Device(check_host(args.host))
    return Device(
        host=args.host,
        ssh=SshOptions(args.ssh_config, tuple(args.ssh_option)),
        python=args.remote_python or usual.python,
        remote_dir=args.remote_dir or usual.remote_dir,
    )


def _plan(request: SearchRequest) -> str:
    """What a search would look at; nothing is written."""
    import dataclasses

    from toolchain.search.session import open_session

    with ScratchFolder("dry-run") as folder:
        build = dataclasses.replace(request.build, out=Path(folder))
        session = open_session(
            dataclasses.replace(request, build=build, storage=None), lambda _line: None
        )
        choices = session.space.choices.items()
        lines = [f"{name:<16} {', '.join(map(str, c))}" for name, c in choices if c != (None,)]
        limits = ", ".join(f"{x.name} {x.value:g}" for x in request.settings.budget.limits())
    return "\n".join(
        [
            f"{session.space.size} points, {request.trials} trials: {request.settings.objective}, "
            f"{limits or 'no limit'}; speeds: {session.bound['speed']}",
            *lines,
            "dry run: nothing was written",
        ]
    )


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
