"""Version, license and changelog say the same everywhere, and the files for a public host can be read."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from pretrain import __version__
from tests.support.home import HOME

PYPROJECT = (HOME / "pyproject.toml").read_text(encoding="utf-8")  # tomllib is not in Python 3.10
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def read_yaml(path: str) -> dict:
    return yaml.safe_load((HOME / path).read_text(encoding="utf-8"))


def test_the_citation_has_the_version_and_the_license():
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == __version__
    assert f'license = "{citation["license"]}"' in PYPROJECT
    assert "Apache License" in (HOME / "LICENSE").read_text(encoding="utf-8")


def test_the_changelog_names_every_version_and_sorts_its_lines():
    text = (HOME / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert __version__ in versions
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= KINDS


def test_the_workflow_tests_every_supported_python():
    (job,) = read_yaml(".github/workflows/tests.yml")["jobs"].values()
    versions = job["strategy"]["matrix"]["python"]
    assert f'requires-python = ">={versions[0]}"' in PYPROJECT
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert (HOME / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize(
    "form", sorted((HOME / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda form: form.stem
)
def test_issue_forms_can_be_read(form):
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    if form.stem != "config":
        assert {"name", "description", "body"} <= content.keys()
        assert all(field["attributes"]["label"] for field in content["body"])


def test_the_tools_of_pre_commit_come_with_the_test_extra():
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    tools = [Path(hook["entry"].split()[0]) for hook in repository["hooks"]]
    assert all(tool.parent == Path(".venv/bin") for tool in tools)
    assert [tool.name for tool in tools if shutil.which(tool.name, path=str(Path(sys.executable).parent)) is None] == []
