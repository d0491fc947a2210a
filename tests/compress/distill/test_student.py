"""Fresh students: legal shapes, sizes that are named, weights that are the teacher's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_encoders import as_source
from tiny_families import calibration, tiny_decoder
from tiny_models import tiny_bert

from common.errors import UserError
from common.strict import parse
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.compress.distill.student import stage
from toolchain.compress.distill.student.settings import Student
from toolchain.compress.distill.student.shape import choose_shape
from toolchain.compress.prune.answers import answers, open_network
from toolchain.compress.prune.calibration import read_batches
from toolchain.compress.prune.layout import find_layout
from toolchain.stage import Input


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("teachers") / "llama", "llama-tied")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("teachers") / "bert", layers=4)


def _made(teacher: Path, root: Path, **sizes: Any) -> Artifact:
    text = Input.of_file(calibration(root / "calibration.txt"))
    settings = Student(**{"calibration_tokens": 512, **sizes})
    config = stage.Config(text=text, settings=settings)
    return stage.run(as_source(teacher), config, root / "student")


def _loaded(path: Path) -> Any:
    kind = getattr(transformers, inspect(path).architecture or "")
    network, facts = kind.from_pretrained(path, output_loading_info=True)
    assert not any(facts[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return network.eval()


def test_a_decoder_of_the_named_sizes(llama: Path, tmp_path: Path) -> None:
    made = _made(llama, tmp_path, layers=2, width=32, ffn=64, heads=2, kv_heads=1)
    network = _loaded(made.path)
    config = network.config
    found = (config.num_hidden_layers, config.hidden_size, config.intermediate_size,
             config.num_attention_heads, config.num_key_value_heads, config.head_dim)  # fmt: skip
    assert found == (2, 32, 64, 2, 1, 16)
    parameters = sum(weight.numel() for weight in network.parameters())
    assert made.measurements["student_parameters"] == parameters
    with torch.no_grad():
        assert torch.isfinite(network(torch.tensor([[3, 4, 5]])).logits).all()


def test_what_is_not_named_follows_the_width(llama: Path) -> None:
    info = inspect(llama)
    shape = choose_shape(info, find_layout(info), Student(width=32, snap=16)).student
    assert (shape.layers, shape.hidden, shape.ffn, shape.groups) == (4, 32, 48, 1)


@pytest.mark.parametrize("aim", [{"ratio": 0.4}, {"parameters": 40_000}])
def test_a_size_is_met_from_below_in_the_teachers_proportions(
    llama: Path, aim: dict[str, Any]
) -> None:
    info = inspect(llama)
    chosen = choose_shape(info, find_layout(info), Student(**aim, snap=8))
    most = aim.get("parameters") or 0.4 * chosen.teacher_parameters
    assert 0.9 * most <= chosen.parameters <= most
    assert chosen.student.hidden < chosen.teacher.hidden
    assert chosen.student.layers < chosen.teacher.layers


def test_a_classifier_of_a_quarter_keeps_its_head(bert: Path, tmp_path: Path) -> None:
    made = _made(bert, tmp_path, ratio=0.25)
    network = _loaded(made.path)
    config = network.config
    assert config.hidden_size < 64
    assert config.hidden_size // config.num_attention_heads == 16
    assert made.measurements["ratio"] <= 0.25
    head = _loaded(bert).classifier.weight
    entries = {tuple(column) for column in head.T.tolist()}
    assert all(tuple(column) in entries for column in network.classifier.weight.T.tolist())


def test_the_fit_comes_nearer_to_the_teacher(llama: Path, tmp_path: Path) -> None:
    batches = read_batches(calibration(tmp_path / "held.txt"), llama, 1024, 5)
    with open_network(llama) as network:
        wanted = answers(network, batches[-1], "tokens")
    far = []
    for recover in (False, True):
        (tmp_path / str(recover)).mkdir()
        made = _made(llama, tmp_path / str(recover), layers=2, ffn=64, recover=recover)
        with open_network(made.path) as network:
            found = answers(network, batches[-1], "tokens")
        far.append(float((wanted.exp() * (wanted - found)).sum(-1).mean()))
    assert far[1] < far[0]


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"layers": 9}, "cannot have layers 9: the teacher has 4"),
        ({"heads": 3}, "3 heads in 1 groups cannot be cut out"),
        ({"heads": 4, "kv_heads": 1}, "4 heads in 1 groups"),
        ({"parameters": 500}, "the smallest legal one has"),
    ],
)
def test_sizes_out_of_reach_are_refused(llama: Path, sizes: dict[str, int], told: str) -> None:
    info = inspect(llama)
    with pytest.raises(UserError, match=told):
        choose_shape(info, find_layout(info), Student(**sizes))


def test_heads_of_an_encoder_go_with_its_width(bert: Path) -> None:
    info = inspect(bert)
    layout = find_layout(info)
    assert choose_shape(info, layout, Student(heads=2)).student.hidden == 32
    with pytest.raises(UserError, match="width 40 is not that of whole heads of 16") as fault:
        choose_shape(info, layout, Student(width=40))
    assert "32 or 48" in fault.value.mend


def test_settings_name_a_size_and_one_aim() -> None:
    for given in ({}, {"ratio": 0.5, "parameters": 9}, {"head_dim": 8}):
        with pytest.raises(UserError, match="fault"):
            parse(Student, given, "student")
