"""Strict settings: every fault at once, with suggestions."""

from pathlib import Path

import pytest
from pydantic import Field

from common.errors import UserError, near_names
from common.strict import Strict, parse, read_yaml


class Inner(Strict):
    ratio: float = Field(default=0.5, ge=0, le=0.9)


class Outer(Strict):
    name: str
    inner: Inner | None = None


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        parse(Outer, {"nmae": "x", "inner": {"ratoi": 1, "ratio": 2}}, "recipe r.yaml")
    text = str(caught.value)
    assert "recipe r.yaml has 4 faults" in text
    assert "unknown key 'nmae': did you mean 'name'?" in text
    assert "'name' is missing" in text
    assert "unknown key 'inner.ratoi': did you mean 'ratio'?" in text
    assert "'inner.ratio'" in text


def test_not_a_mapping() -> None:
    with pytest.raises(UserError, match="must hold a mapping"):
        parse(Outer, ["name"], "recipe r.yaml")


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("a: 1\nb: [1, 2\n")
    with pytest.raises(UserError, match=r"not valid YAML.*line 3"):
        read_yaml(path)


def test_yaml_builds_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UserError, match="not valid YAML"):
        read_yaml(path)


def test_near_names() -> None:
    assert "did you mean 'jetson'?" in near_names("jeston", ["laptop", "jetson"])
    assert near_names("zzz", ["b", "a"]) == "known: a, b"
