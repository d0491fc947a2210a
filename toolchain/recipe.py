"""Recipes: one YAML file says which stages run; the target's profile supplies what it leaves out.

edgeforge build --target laptop --recipe my-recipe.yaml
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from common.errors import UserError, near_names
from common.shell import typed_path
from common.strict import Strict, parse, read_yaml
from targets.schema import KvCacheType
from toolchain.compress.awq.settings import Awq
from toolchain.compress.distill.settings import Distill
from toolchain.compress.gptq.settings import Gptq
from toolchain.compress.prune.settings import Prune
from toolchain.compress.prune_vocab.settings import Vocabulary
from toolchain.compress.sparse.settings import Sparsify
from toolchain.data.prepare.variants import MOST_VARIANTS
from toolchain.export.gguf.mixed.settings import Mixed
from toolchain.train.settings import Finetune

DEFAULT_RECIPE = "export"
RECIPES = Path(__file__).parent / "recipes"

# What changes or measures the checkpoint, in any sensible order; then what makes the bundle.
ChainStage = Literal[
    "prune", "prune-vocab", "sparsify", "finetune", "distill", "merge", "awq", "gptq", "evaluate"
]
BundleStage = Literal["export", "bundle", "smoke"]
_WHOLE = ("prune", "prune-vocab", "sparsify", "awq", "gptq", "export")  # take a whole model
TRAINING = ("finetune", "distill")  # stages that need data; each has a section of its name
_BUNDLE_ORDER = ("export", "bundle", "smoke")
Scalar = bool | int | float | str


class Data(Strict):
    """Training data: files as `edgeforge data prepare` takes them, or one folder that it made. With
    `own`, a recipe without files trains on what comes with the model: its `edgeforge/train.jsonl`,
    else the calibration text. `variants` of each text are made for a classifier's teacher."""

    files: tuple[Path, ...] = ()
    own: bool = False
    format: str | None = None
    map: dict[str, str] = Field(default_factory=dict)
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    drop_long: bool = False
    variants: int = Field(default=0, ge=0, le=MOST_VARIANTS)


class Merge(Strict):
    """How an adapter is merged; `adapter` is a folder, or null for the one trained before.
    `separate` leaves it unmerged: the base is exported and the adapter goes beside it (GGUF)."""

    adapter: Path | None = None
    dtype: Literal["base", "float32", "float16", "bfloat16"] = "base"
    force: bool = False
    verify: bool = True
    separate: bool = False


class Export(Strict):
    """The export. `format` auto is what the quantization named belongs to, else what the target
    runs; encoders become ONNX. `smooth` is for ONNX, `calibration` for both, the other
    keys from `intermediate` on are GGUF's."""

    format: Literal["auto", "gguf", "onnx"] = "auto"
    quantization: str = "auto"
    intermediate: Literal["auto", "f32", "f16", "bf16"] = "auto"
    imatrix: bool = True
    calibration: Path | None = None
    calibration_tokens: int = Field(default=16384, ge=512)
    tensor_types: dict[str, str] = Field(default_factory=dict)
    pure: bool = False
    smooth: bool = True


class Evaluate(Strict):
    """The proof that the exported file still is the same model, and the figures of the stage
    `evaluate`."""

    text: Path | None = None
    max_tokens: int = Field(default=4096, ge=256)
    context_tokens: int = Field(default=512, ge=32)
    task: Path | None = None
    task_examples: int = Field(default=200, ge=1)
    metrics: tuple[str, ...] = ("exact_match", "f1")


class Quality(Strict):
    """The budget; what is left out comes from the target's profile. `max_kld` and `min_task_share`
    are what the export's quantization may cost; the `total` ones are against the original and hold
    after every stage. A stage that breaks one stops the build, or with `roll_back` is undone: the
    last model within budget is exported."""

    max_kld: float | None = Field(default=None, gt=0)
    min_task_share: float | None = Field(default=None, ge=0, le=1)
    max_total_kld: float | None = Field(default=None, gt=0)
    min_total_task_share: float | None = Field(default=None, ge=0, le=1)
    max_file_bytes: int | None = Field(default=None, ge=1)
    min_decode_tokens_per_sec: float | None = Field(default=None, gt=0)
    on_broken: Literal["stop", "roll_back"] = "stop"


class Rounds(Strict):
    """Small steps instead of one: the stages before the export, but for an `evaluate` that comes
    first, run up to `most` times, each round on what the round before left. They end when the model
    has `parameters` or fewer, or before a round after which perplexity has grown to more than
    `max_perplexity_ratio` of the first `evaluate`, or a task kept less than `min_task_share`."""

    most: int = Field(default=1, ge=1, le=100)
    parameters: int | None = Field(default=None, ge=1)
    max_perplexity_ratio: float | None = Field(default=None, gt=0)
    min_task_share: float | None = Field(default=None, ge=0, le=1)


class Run(Strict):
    """How the bundle runs on the device; what is left out comes from the target's profile."""

    context_tokens: int | None = Field(default=None, ge=256)
    kv_cache_type: KvCacheType | None = None
    threads: int | None = Field(default=None, ge=1)

    @property
    def over_target(self) -> dict[str, Any]:
        """The target's fields that the recipe sets anew."""
        return self.model_dump(exclude_none=True)


class Ollama(Strict):
    """What the Modelfile says beyond profile and generation config."""

    system: str | None = None
    parameters: dict[str, Scalar] = Field(default_factory=dict)


class Recipe(Strict):
    """A whole recipe. `stages` run in the order given; `export` makes the model file. `ledger`
    measures the model after every stage that has no `evaluate` of its own."""

    name: str = ""
    description: str = ""
    stages: tuple[ChainStage | BundleStage, ...] = ("export", "bundle", "smoke")
    rounds: Rounds = Rounds()
    data: Data = Data()
    prune: Prune = Prune()
    vocabulary: Vocabulary = Vocabulary()
    sparsify: Sparsify = Sparsify()
    finetune: Finetune = Finetune()
    distill: Distill = Distill()
    merge: Merge = Merge()
    awq: Awq = Awq()
    gptq: Gptq = Gptq()
    mixed: Mixed = Mixed()
    export: Export = Export()
    evaluate: Evaluate = Evaluate()
    quality: Quality = Quality()
    run: Run = Run()
    ledger: bool = True
    ollama: Ollama = Ollama()

    @property
    def chain(self) -> tuple[str, ...]:
        """The stages before the export, in order."""
        return tuple(name for name in self.stages if name not in _BUNDLE_ORDER)

    @property
    def changes_model(self) -> bool:
        """Whether a stage before the export makes another model."""
        return any(name != "evaluate" for name in self.chain)

    @property
    def trains(self) -> bool:
        """Whether a stage of it needs data."""
        return any(name in TRAINING for name in self.stages)

    @property
    def trains_blocks(self) -> bool:
        """Whether a stage of it trains the very blocks of the file."""
        return self.distill.exact is not None and "distill" in self.stages

    @property
    def blocks(self) -> tuple[str, str] | None:
        """The key that says what type a stage prepares the weights for, and the type; None when
        none does."""
        if self.trains_blocks:
            return "distill.exact", self.distill.exact or ""
        for name, own in (("gptq", self.gptq), ("awq", self.awq)):
            if name in self.stages:
                return f"{name}.quantization", own.quantization
        return None

    @property
    def training(self) -> Finetune:
        """The settings by which the data are prepared: those of the first stage that trains."""
        first = next((name for name in self.stages if name in TRAINING), "finetune")
        return self.distill.training if first == "distill" else self.finetune

    @field_validator("stages")
    @classmethod
    def _in_order(cls, stages: tuple[str, ...]) -> tuple[str, ...]:
        last = tuple(name for name in stages if name in _BUNDLE_ORDER)
        chain = stages[: len(stages) - len(last)]
        if not stages or stages != chain + _BUNDLE_ORDER[: len(last)]:
            raise ValueError(
                "stages end in a beginning of export, bundle, smoke, in this order; "
                f"{', '.join(get_args(ChainStage))} come before"
            )
        return stages

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        methods = {"finetune": self.finetune.method, "distill": self.distill.method}
        faults = _chain_faults(self.stages, methods, self.merge.adapter is not None)
        if "distill" in self.stages:
            faults += _teaching_faults(self.stages, self.distill)
        if self.trains_blocks:
            faults += _exact_faults(self.stages, "distill", self.rounds.most)
        if "gptq" in self.stages:
            faults += _exact_faults(self.stages, "gptq", self.rounds.most)
        if {"awq", "gptq"} <= set(self.stages) and self.awq.quantization != self.gptq.quantization:
            faults.append(
                f"awq.quantization is {self.awq.quantization} and gptq.quantization "
                f"{self.gptq.quantization}: a file has one"
            )
        if self.rounds.most > 1:
            faults += _round_faults(self.chain, self.distill.student is not None)
        if self.merge.separate and "merge" in self.stages:
            faults += _separate_faults(self.stages, self.finetune)
        faults += _budget_faults(self)
        if faults:
            raise ValueError("; ".join(faults))
        return self


def _budget_faults(recipe: Recipe) -> list[str]:
    """Budgets that nothing would be held against."""
    if not recipe.changes_model:
        return []
    faults = []
    if recipe.quality.max_total_kld is not None and not recipe.ledger:
        faults.append("quality.max_total_kld is measured by the ledger: set ledger to true")
    if recipe.quality.min_total_task_share is not None and recipe.chain[0] != "evaluate":
        faults.append("quality.min_total_task_share: put evaluate first, for the original's score")
    return faults


def _chain_faults(
    stages: Sequence[str], methods: Mapping[str, str], given_adapter: bool
) -> list[str]:
    """What of the order makes no sense: an adapter is merged once, and before it is built on."""
    faults = []
    adapter = given_adapter
    trained = "training"
    for name in stages:
        if name == "merge":
            if not adapter:
                faults.append("'merge' has no adapter: put finetune before, or set merge.adapter")
            adapter = False
        elif name in TRAINING:
            if adapter and not given_adapter:
                faults.append(f"'{name}' follows an adapter not merged yet: put merge between")
            adapter, trained = methods[name] == "lora", name
        elif name in _WHOLE and adapter and not given_adapter:
            faults.append(f"'{name}' takes a whole model: put merge after {trained}")
    return faults


def _teaching_faults(stages: Sequence[str], settings: Distill) -> list[str]:
    """Where nobody is named, the model as it came teaches what the stages before made of it."""
    named = (settings.student, settings.teacher, settings.teacher_cache, settings.exact)
    if any(one is not None for one in named):
        return []
    before = stages[: stages.index("distill")]
    if all(name == "evaluate" for name in before):
        return [
            "'distill' has nobody to learn from: set distill.student (a small model, or "
            "{ratio: 0.25}) or distill.teacher, or put a stage that changes the model before it"
        ]
    if "prune-vocab" in before and not settings.universal:
        return [
            "'distill' after 'prune-vocab' learns from a model with another vocabulary: put "
            "prune-vocab after it"
        ]
    return []


def _exact_faults(stages: Sequence[str], maker: str, rounds: int) -> list[str]:
    """Blocks that a stage made ship: nothing changes the weights after that."""
    last = len(stages) - 1 - stages[::-1].index(maker)
    after = [name for name in stages[last + 1 :] if name not in ("evaluate", *_BUNDLE_ORDER)]
    after += ["another round"] if rounds > 1 else []
    made = "that exact trained" if maker == "distill" else "that it made"
    return [f"{name} after '{maker}' would change the blocks {made}" for name in after]


def _round_faults(chain: Sequence[str], given_student: bool) -> list[str]:
    """A round begins with a model that was measured, and ends with one."""
    faults = []
    if len(chain) < 3 or chain[0] != "evaluate" or chain[-1] != "evaluate":
        faults.append("rounds compare measurements: stages begin and end with evaluate")
    if "distill" in chain and given_student:
        faults.append("rounds make one model smaller: leave distill.student out")
    return faults


def _separate_faults(stages: Sequence[str], settings: Finetune) -> list[str]:
    """An adapter that stays apart is the last thing that changes the model, and a plain LoRA."""
    faults = []
    after = stages[stages.index("merge") + 1 :]
    if any(name in after for name in (*TRAINING, "merge")):
        faults.append("'merge' with separate: true comes last; nothing is trained on top of it")
    if "finetune" in stages and (settings.dora or settings.modules_to_save):
        faults.append("DoRA and modules_to_save need a merge: set merge.separate to false")
    return faults


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the tool."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def shipped_text(name: str) -> str:
    """A shipped recipe as it is written."""
    return (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")


def load_recipe(name_or_file: str | None, data: Sequence[Path] = ()) -> Recipe:
    """A recipe ready to run: `read_recipe`, its files found, its data files those of `data` where
    some are given."""
    base = _find(name_or_file or DEFAULT_RECIPE).parent.absolute()
    return _with_data(_with_absolute_paths(read_recipe(name_or_file), base), data)


def read_recipe(name_or_file: str | None) -> Recipe:
    """A shipped recipe by name, or a file, as it is written there. Relative paths inside a file are
    relative to it."""
    path = _find(name_or_file or DEFAULT_RECIPE)
    content = read_yaml(path)
    recipe = parse(Recipe, {} if content is None else content, f"recipe {path.name}")
    return recipe.model_copy(update={"name": recipe.name or path.stem})


def built_name(model: str | None, recipe: Recipe) -> str:
    """Name of what a recipe makes of a model: the model's own, and the recipe's where it changes
    the model, so that the two do not share a folder."""
    from toolchain.checkpoint.locate import model_name, safe_name

    name = model_name(model)
    return f"{name}-{safe_name(recipe.name)}" if recipe.chain else name


def _with_data(recipe: Recipe, files: Sequence[Path]) -> Recipe:
    if files:
        if not recipe.trains:
            raise UserError(
                f"recipe '{recipe.name}' trains nothing, so data= has no use",
                "take one with a stage finetune or distill: recipe=finetune",
            )
        absolute = tuple(_existing(Path.cwd() / path.expanduser(), "data") for path in files)
        recipe = recipe.model_copy(
            update={"data": recipe.data.model_copy(update={"files": absolute})}
        )
    if recipe.trains and not recipe.data.files and not recipe.data.own:
        raise UserError(
            f"recipe '{recipe.name}' trains, but names no data",
            "give data=FILE (.jsonl, .json, .csv, .parquet), or set data.files in the recipe",
        )
    return recipe


def _find(name: str) -> Path:
    shipped = RECIPES / f"{name}.yaml"
    if name in recipe_names():
        return shipped
    path = typed_path(name)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or "/" in name:
        raise UserError(f"recipe file '{name}' does not exist", "check the path")
    raise UserError(f"unknown recipe '{name}'", near_names(name, recipe_names()))


# Keys that name a checkpoint: a folder relative to the recipe's own, or a hub id.
_MODELS = (("distill", "teacher"), ("distill", "student"))
# Keys that name files or folders; each is relative to the recipe's own folder.
_PATHS = (
    *(("data", "files"), ("finetune", "accelerate_config"), ("merge", "adapter")),
    ("distill", "accelerate_config"),
    ("distill", "teacher_cache"),
    *(("export", "calibration"), ("evaluate", "text"), ("evaluate", "task")),
    ("vocabulary", "text"),
)


def _with_absolute_paths(recipe: Recipe, base: Path) -> Recipe:
    changes: dict[str, dict[str, Any]] = {}
    for section, key in _PATHS:
        value = getattr(getattr(recipe, section), key)
        if not value:
            continue
        name = f"recipe key '{section}.{key}'"
        several = value if isinstance(value, tuple) else (value,)
        found = tuple(_existing(base / path.expanduser(), name) for path in several)
        changes.setdefault(section, {})[key] = found if isinstance(value, tuple) else found[0]
    for section, key in _MODELS:
        model = getattr(getattr(recipe, section), key)
        if isinstance(model, str) and (base / typed_path(model)).is_dir():
            changes.setdefault(section, {})[key] = str(base / typed_path(model))
    update = {name: getattr(recipe, name).model_copy(update=new) for name, new in changes.items()}
    return recipe.model_copy(update=update)


def _existing(path: Path, name: str) -> Path:
    if not path.exists():
        raise UserError(f"{name} names {path}, which does not exist", "check the path")
    return path
