"""Run each documented command and snippet on the sample data, and compare the output."""

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest
from testing.certificates import Authority
from testing.process import run

from tests.docs.command_server import command_server
from tests.docs.left_out import LEFT_OUT
from tests.docs.pages import PAGES, ROOT, RUN_KINDS, SHOWN_KINDS, Block, blocks_of
from tests.docs.shell import Shell, opened_shell, serves

BEGIN_WITHOUT_A_STORE = {"README.md", "docs/cli.md"}
"""Pages that import the samples themselves. Other pages start with the samples imported."""
NAMES = {"python": "client.py", "js": "client.js"}
"""The file that a snippet is saved as, by its language."""
FIRST_LINES = {
    ("docs/grpc-python.md", 1): (
        "import grpc, sys\n"
        "from interaction_svc.v1.interaction_service_pb2 import ListInteractionsRequest\n"
        "from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub\n"
        "stub = InteractionServiceStub(grpc.insecure_channel(sys.argv[1]))\n"
        "service, session = 'KS' + 'a' * 32, 'KC' + 'b' * 32\n"
        "newest_first = ListInteractionsRequest(service_sid=service, session_sid=session)\n"
    ),
    ("docs/grpc-python.md", 2): "import grpc\nkey = 'SK' + 'a' * 32, 'secret'\n",
    ("docs/access.md", 0): (
        "from twilio.rest import Client\nkey_sid, secret = 'SK' + 'a' * 32, 'secret'\n"
    ),
    ("docs/sdks.md", 1): (
        "import twilio.rest\naccount_sid = 'AC' + 'a' * 32\nsecret_of_a_key = auth_token = 's'\n"
    ),
}
"""Lines that a Python snippet needs before it, by page and number of the snippet."""


MISSING = [name for name in ("grpcurl", "node", "curl", "sqlite3") if shutil.which(name) is None]


def runnable(page: str) -> list[Block]:
    return [
        block
        for block in blocks_of(page)
        if block.kind in RUN_KINDS and (page, block.title) not in LEFT_OUT
    ]


PAGES_TO_RUN = [page for page in PAGES if runnable(page)]


@pytest.fixture(scope="module")
def sample_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("samples") / "interactions.db"
    samples = sorted(map(str, (ROOT / "samples").glob("*.json*")))
    assert run("import", "--store", f"sqlite:///{store}", *samples).returncode == 0
    return store


@pytest.fixture(scope="module")
def commands() -> Iterator[Path]:
    with command_server() as folder:
        yield folder


@pytest.mark.parametrize("page", PAGES_TO_RUN)
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
@pytest.mark.timeout(300)
async def test_commands_print_what_the_page_shows(
    page: str, sample_store: Path, commands: Path, tmp_path: Path
) -> None:
    if page not in BEGIN_WITHOUT_A_STORE:
        shutil.copy(sample_store, tmp_path)
    write_mentioned_files(page, tmp_path)
    wrong: list[str] = []
    snippets = 0
    async with opened_shell(tmp_path, commands) as shell:
        blocks = runnable(page)
        for block, following in zip_longest(blocks, blocks[1:]):
            if block.kind == "console":
                for command, output in block.steps():
                    wrong += await faults_of_command(shell, block, command, output)
                continue
            first_lines = ""
            if block.kind == "python":
                first_lines = FIRST_LINES.get((page, snippets), "")
                snippets += 1
            await write_snippet(shell, block, first_lines)
            if following is None or f"python {NAMES[block.kind]}" not in following.text:
                wrong += await faults_of_snippet(shell, block)
    assert not wrong, "\n\n".join(wrong)


async def faults_of_command(shell: Shell, block: Block, command: str, output: str) -> list[str]:
    pattern = shell.placeholders.pattern(output)

    def is_whole(printed: str) -> bool:
        return pattern.fullmatch(compared(printed, output)) is not None

    if serves(command):
        printed, status = await shell.serve(command, is_whole), 0
    else:
        printed, status = await shell.run(command)
    printed = compared(printed, output)
    where = f"{block.page}:{block.line}: $ {command}"
    if not output:
        return [f"{where}\nended with {status}:\n{printed}"] if status else []
    matched = pattern.fullmatch(printed)
    if matched is None:
        return [f"{where}\nprinted:\n{printed}\nThe page shows:\n{output}"]
    shell.placeholders.learn(matched)
    return []


async def write_snippet(shell: Shell, block: Block, first_lines: str) -> None:
    """Write a snippet to a file through the shell, which replaces the documented addresses."""
    text = f"{first_lines}{block.text}"
    await shell.run(f"cat > {NAMES[block.kind]} <<'END OF TEXT'\n{text}\nEND OF TEXT")


async def faults_of_snippet(shell: Shell, block: Block) -> list[str]:
    program = {"python": "python", "js": "node"}[block.kind]
    printed, status = await shell.run(f"{program} {NAMES[block.kind]} 127.0.0.1:50051")
    where = f"{block.page}:{block.line}: {block.title}"
    if status:
        return [f"{where}\nended with {status}:\n{printed}"]
    if block.output and not shell.placeholders.pattern(block.output).fullmatch(printed):
        return [f"{where}\nprinted:\n{printed}\nThe page shows:\n{block.output}"]
    return []


def compared(printed: str, documented: str) -> str:
    """Return an output without log lines, unless the page shows log lines."""
    if '"event":' in documented:
        return printed
    lines = printed.splitlines(keepends=True)
    return "".join(line for line in lines if not re.match(r'\{.*"event":.*"level":', line))


def write_mentioned_files(page: str, folder: Path) -> None:
    """Write the files that the commands of a page read."""
    if page == "docs/cli.md":
        write_import_files(folder)
    elif page == "docs/configuration.md":
        (folder / "bad.toml").write_text('stor = "sqlite:///log.db"\n')
        shown = next(block.text for block in blocks_of(page) if block.kind == "toml")
        secrets = folder / "etc" / "interaction-svc"
        secrets.mkdir(parents=True)
        (folder / "interaction-svc.toml").write_text(
            shown.replace("/etc/interaction-svc", str(secrets))
        )
        authority = Authority(secrets)
        issued = authority.issue("tls")
        issued.certificate.rename(secrets / "tls.crt")
        issued.key.rename(secrets / "tls.key")
    elif page == "docs/grpc-python.md":
        Authority(folder)
    elif page == "docs/operations.md":
        (folder / "no.db").write_text("This is no SQLite database.\n" * 100)
    elif page == "docs/store-faults.md":
        shutil.copy(folder / "interactions.db", folder / "damaged.db")


def write_import_files(folder: Path) -> None:
    text = (ROOT / "samples" / "clinic.jsonl").read_text()
    (folder / "clinic.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    first, second, third, *others = (json.loads(line) for line in text.splitlines()[:7])
    of_python = {**third, "_version": "<Version>", "_solution": {}}
    (folder / "dump.json").write_text(
        json.dumps([in_camel_case(first), in_camel_case(second), of_python])
    )
    good, bad_type, also_good, without_account = others
    bad_type["type"] = "fax"
    del without_account["account_sid"]
    lines = [json.dumps(each) for each in (good, bad_type, also_good, without_account)]
    lines.insert(2, "not JSON")
    (folder / "mixed.jsonl").write_text("\n".join(lines))


def in_camel_case(resource: dict[str, object]) -> dict[str, object]:
    """Return a resource with camel-case keys, as in Twilio's Node SDK."""
    return {
        re.sub("_([a-z])", lambda match: match[1].upper(), name): value
        for name, value in resource.items()
    }


def test_each_block_is_run_or_left_out_for_a_reason() -> None:
    blocks = [block for page in PAGES for block in blocks_of(page)]
    for block in blocks:
        where = f"{block.page}:{block.line}"
        assert block.kind in {*RUN_KINDS, *SHOWN_KINDS, "sh"}, f"{where}: what kind is this?"
        if block.kind in SHOWN_KINDS:
            assert not block.text.startswith("$ "), f"{where}: commands are ```console"
        elif block.kind == "sh":
            assert (block.page, block.title) in LEFT_OUT, f"{where}: is not run"
    for left_out in LEFT_OUT:
        same = [block for block in blocks if (block.page, block.title) == left_out]
        assert len(same) == 1, f"{left_out} is {len(same)} blocks"
