"""Versions with known trouble: a small table (`known_trouble.yaml`) held against what is here.

for trouble, version in troubles(installed_version, host.instructions): ...
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import field_validator

from common.strict import Strict, parse, read_yaml

TABLE = Path(__file__).with_name("known_trouble.yaml")


class Trouble(Strict):
    """What is wrong with some versions of a package or program, and the mend; `only_with`: on CPUs
    with this set of instructions."""

    name: str
    versions: str
    only_with: str | None = None
    trouble: str
    mend: str

    @field_validator("versions")
    @classmethod
    def _is_specifier(cls, text: str) -> str:
        try:
            SpecifierSet(text)
        except InvalidSpecifier as error:
            raise ValueError(str(error)) from None
        return text

    def holds(self, version: str) -> bool:
        """Whether this version has the trouble; pre-releases and local builds count."""
        return SpecifierSet(self.versions).contains(version, prereleases=True)


class _Table(Strict):
    troubles: tuple[Trouble, ...]


def known() -> tuple[Trouble, ...]:
    """The whole table."""
    return parse(_Table, read_yaml(TABLE), TABLE.name).troubles


def troubles(
    version_of: Callable[[str], str | None], instructions: Collection[str]
) -> Iterator[tuple[Trouble, str]]:
    """The entries that hold here, each with the version that `version_of` tells for its name."""
    for trouble in known():
        if trouble.only_with and trouble.only_with not in instructions:
            continue
        version = version_of(trouble.name)
        if version is not None and trouble.holds(version):
            yield trouble, version
