"""What the README, the documentation and the examples show is run, so that it cannot rot.

Python blocks of a page run in order and share their names. `localhost:50051` stands for a server that runs. A TOML
block is the file that its first line names, and `export` lines of a shell block are the environment.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from grpcpool.testing import ServerProcess

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
ANY_TARGET = "localhost:50051"
# What a page needs beyond grpcpool and grpcio.
NEEDS = {"configuration.md": "pydantic_settings"}


class Block(NamedTuple):
    language: str
    line: int
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced code blocks of a Markdown page."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield Block(match[1], text.count("\n", 0, match.start()) + 1, match[2])


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server:
        yield server


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_page(
    page: Path, server: ServerProcess, generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page.name in NEEDS:
        pytest.importorskip(NEEDS[page.name])
    monkeypatch.chdir(tmp_path)
    # Nobody connects with these; they only have to look the part.
    for name in ("ca.pem", "client.pem", "client.key"):
        (tmp_path / name).write_text("-----BEGIN NOTHING-----\n-----END NOTHING-----\n")
    names: dict[str, object] = {"__name__": "__docs__"}
    ran = 0
    for language, line, written in blocks(page):
        text = written.replace(ANY_TARGET, server.target).replace("127.0.0.1:50051", f"127.0.0.1:{server.port}")
        if language == "toml":
            (tmp_path / text.partition("\n")[0].removeprefix("# ")).write_text(text)
        elif language == "sh":
            for name, value in re.findall(r"^export (\w+)=(.*)$", text, re.MULTILINE):
                monkeypatch.setenv(name, value)
        elif language == "python":
            # Blank lines before it, so that a traceback has the page's own line numbers.
            code = compile("\n" * line + text, str(page), "exec", dont_inherit=True)
            exec(code, names)
            ran += 1
    assert ran > 0


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=relative)
def test_links(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", page.read_text(encoding="utf-8")):
        linked = page.parent / target if target else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor[1:] in anchors, f"{page.name} links to {target}{anchor}"


@pytest.mark.parametrize("example", EXAMPLES, ids=relative)
def test_example(example: Path) -> None:
    done = subprocess.run([sys.executable, example], check=False, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    commands = [block.text.strip() for block in blocks(ROOT / "README.md") if block.language == "sh"]
    (command,) = [command for command in commands if command.endswith("pytest")]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace(" --quiet", "")
    for step in command.split(" && ")[1:]:
        assert step in script
