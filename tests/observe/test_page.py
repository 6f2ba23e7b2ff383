"""The live page: its addresses, mounted and alone, and in a real browser."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright
from starlette.applications import Starlette
from starlette.routing import Mount

import engine
from engine import cli, ops
from engine.queues.hooks import hooks

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here: apt-get install chromium")

WORK = """
import asyncio, sys, time
import numpy as np
import engine
from engine import ops

@engine.op
def napped(x):
    time.sleep(0.05)
    return x * 2

async def main():
    async with engine.Executor(execution_mode=engine.ASYNC):
        while True:
            total = ops.asarray(np.ones(1000)).sum()
            await engine.gather(napped(1.0), total)
            try:
                await ops.linalg.inv(ops.zeros((2, 2)))
            except np.linalg.LinAlgError:
                pass
            await asyncio.sleep(0.01)

asyncio.run(main())
"""


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an application on a thread; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return answer.read().decode()  # type: ignore[no-any-return]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "work.py"
    path.write_text(WORK, encoding="utf-8")
    return path


@contextmanager
def running(*arguments: str, cwd: Path | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `python -m engine dashboard`; the process, and the address that it says."""
    command = [sys.executable, "-m", "engine", "dashboard", "--port", "0", *arguments]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stderr is not None
        try:
            found = re.search(r"http://127\.0\.0\.1:\d+/", process.stderr.readline())
            assert found is not None
            yield process, found[0]
        finally:
            process.kill()


# Without a browser


async def test_the_state_has_what_happened(mode: engine.ExecutionMode) -> None:
    app = engine.observe.dashboard()
    await ops.add(1, 2)
    with pytest.raises(np.linalg.LinAlgError):
        await ops.linalg.inv(ops.zeros((2, 2)))
    with serving(app) as address:
        state = json.loads(await asyncio.to_thread(get, address + "/state"))
    rows = {row["label"]: row for row in state["ops"]}
    assert rows["add"]["count"] == 1
    assert rows["linalg.inv"]["failed"] == 1
    (error,) = state["errors"]
    assert (error["name"], error["error"], error["count"]) == ("linalg.inv", "LinAlgError: Singular matrix", 1)
    assert __file__ in error["note"]
    assert "CPU:0" in [device["name"] for device in state["devices"]]
    assert state["ended"] >= 3


async def test_what_runs_is_shown(gate: engine.testing.GateOp) -> None:
    app = engine.observe.dashboard()
    async with engine.Executor(execution_mode=engine.ASYNC):
        handle = gate(1.0)
        waiting = [handle + float(index) for index in range(3)]
        await asyncio.to_thread(gate.wait_entered)
        with serving(app) as address:
            state = json.loads(await asyncio.to_thread(get, address + "/state"))
        gate.open()
        await engine.gather(*waiting)
    device = next(each for each in state["devices"] if each["name"] == "CPU:0")
    assert [op["name"] for op in device["ops"]] == ["gate"]
    assert device["busy"] == 1
    assert device["queued"] >= 4


def test_updates_come_as_server_sent_events() -> None:
    app = engine.observe.dashboard()
    with serving(app) as address, urllib.request.urlopen(address + "/events", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        states: list[dict[str, Any]] = []
        while len(states) < 2:
            line = answer.readline().decode()
            if line.startswith("data: "):
                states.append(json.loads(line.removeprefix("data: ")))
    assert states[0]["time"] < states[1]["time"]


def test_it_works_where_it_is_mounted_with_and_without_a_slash() -> None:
    app = Starlette(routes=[Mount("/engine", engine.observe.dashboard())])
    with serving(app) as address:
        for path in ("/engine", "/engine/"):
            assert "<title>eagerloop</title>" in get(address + path)
        assert json.loads(get(address + "/engine/state"))["ended"] == 0


def test_it_works_in_fastapi() -> None:
    fastapi = pytest.importorskip("fastapi", reason="fastapi is not installed")
    app = fastapi.FastAPI()
    app.mount("/engine", engine.observe.dashboard())
    with serving(app) as address:
        assert "<title>eagerloop</title>" in get(address + "/engine/")


async def test_only_places_that_were_shown_have_their_code_shown() -> None:
    app = engine.observe.dashboard()
    engine.enable_eager_execution()
    ops.add(1, 2)
    line = sys._getframe().f_lineno - 1
    with serving(app) as address:
        await asyncio.to_thread(get, address + "/state")
        answer = json.loads(await asyncio.to_thread(get, f"{address}/source?site={quote(f'{__file__}:{line}')}"))
        assert answer["lines"][line - answer["first"]] == "    ops.add(1, 2)"
        for other in (f"{__file__}:1", "/etc/passwd:1", "", "nothing"):
            with pytest.raises(urllib.error.HTTPError, match="404") as refused:
                await asyncio.to_thread(get, f"{address}/source?site={quote(other)}")
            refused.value.close()  # it is the answer


def test_nothing_on_the_page_comes_from_elsewhere() -> None:
    with serving(engine.observe.dashboard()) as address, urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert not re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:)?//""", text)


def test_a_reset_ends_the_counting() -> None:
    engine.observe.dashboard()
    assert hooks.listeners
    engine.testing.reset()
    assert not hooks.listeners


def test_without_starlette_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "starlette", None)
    with pytest.raises(ImportError, match=r"needs starlette: pip install 'eagerloop\[observe\]'"):
        engine.observe.dashboard()
    assert cli.main(["dashboard", "program.py"]) == 2
    assert "pip install 'eagerloop[observe]'" in capsys.readouterr().err


# The command


def test_the_program_gets_its_arguments_and_its_exit_status_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(
        "import sys, helper\nassert __name__ == '__main__'\nprint(sys.argv[1:], helper.NAME)\nsys.exit(7)\n", "utf-8"
    )
    (tmp_path / "helper.py").write_text("NAME = 'beside it'\n", encoding="utf-8")
    command = [sys.executable, "-m", "engine", "dashboard", "--port", "0", str(path), "--port", "x"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
    assert done.returncode == 7, done.stderr
    assert done.stdout == "['--port', 'x'] beside it\n"
    assert re.search(r"http://127\.0\.0\.1:\d+/", done.stderr)


def test_an_error_of_the_program_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("def f():\n    raise KeyError('inner')\nf()\n", encoding="utf-8")
    command = [sys.executable, "-m", "engine", "dashboard", "--port", "0", str(path)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
    assert done.returncode == 1
    assert "runpy" not in done.stderr
    assert done.stderr.splitlines()[-1] == "KeyError: 'inner'"
    assert f'File "{path}", line 3' in done.stderr


def test_a_port_that_is_taken_is_said(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["dashboard", "--port", str(port), str(program)]) == 2
    error = capsys.readouterr().err
    assert f"127.0.0.1:{port}: " in error
    assert "Address already in use: choose another with --port, 0 for any" in error


def test_a_host_that_is_none_of_this_machines_is_said(
    program: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    assert cli.main(["dashboard", "--host", "192.0.2.1", "--port", "0", str(program)]) == 2
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert cli.main(["dashboard", "--host", "nowhere.invalid", "--port", "0", str(program)]) == 2
    errors = capsys.readouterr().err.splitlines()
    what_to_do = "choose an address of this machine with --host"
    assert errors[0].startswith("eagerloop dashboard: 192.0.2.1:0: ")
    assert errors[0].endswith(what_to_do)
    assert errors[1] == f"eagerloop dashboard: nowhere.invalid:0: Name or service not known: {what_to_do}"


def test_a_syntax_error_is_shown_without_a_line_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("def f(:\n", encoding="utf-8")
    command = [sys.executable, "-m", "engine", "dashboard", "--port", "0", str(path)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:3] == [f'  File "{path}", line 1', "    def f(:"]
    assert not hooks.listeners


def test_a_program_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dashboard", str(tmp_path / "missing.py")]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_an_interrupt_ends_it(program: Path) -> None:
    with running(str(program)) as (process, address):
        assert json.loads(get(address + "state"))["ended"] >= 0
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_the_page_stays_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("import engine\nengine.enable_eager_execution()\nengine.ops.add(1, 2)\n", encoding="utf-8")
    with running("--stay", str(path)) as (process, address):
        assert process.stderr is not None
        assert "the program has ended" in process.stderr.readline()
        assert json.loads(get(address + "state"))["ended"] == 1
        assert process.poll() is None


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("page") / "work.py"
    path.write_text(WORK, encoding="utf-8")
    with running(str(path)) as (_, address):
        yield address


@contextmanager
def opened(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    """A page on which no script fails and nothing is asked of other servers."""
    context = browser.new_context(**options)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(address) or request.url.startswith("data:") else problems.append(request.url)
        ),
    )
    page.goto(address)
    try:
        yield page
        assert not problems
    finally:
        context.close()


def ended(page: Page) -> str:
    return page.locator("#figure-ended b").inner_text()


@needs_browser
def test_the_page_loads_and_updates_while_work_goes_on(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        expect(page.locator("#connection")).to_have_text("live")
        expect(page.locator("#ops")).to_contain_text("napped")
        expect(page.locator("#lines")).to_contain_text("work.py:")
        expect(page.locator("#devices")).to_contain_text("CPU:0")
        before = ended(page)
        expect(page.locator("#figure-ended b")).not_to_have_text(before)


@needs_browser
def test_an_error_is_shown_with_its_place(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        error = page.locator("#errors li").first
        expect(error).to_contain_text("LinAlgError: Singular matrix")
        expect(error).to_contain_text("work.py:")


@needs_browser
def test_a_click_shows_the_line(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        page.locator("#ops tr", has_text="napped").click()
        expect(page.locator("#source .here")).to_contain_text("await engine.gather(napped(1.0), total)")
        page.locator("#close").click()
        expect(page.locator("#source")).to_be_hidden()


@needs_browser
def test_pause_stops_the_page_and_lets_it_go_on(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        expect(page.locator("#ops")).to_contain_text("napped")
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#connection")).to_have_text("paused")
        before = ended(page)
        with opened(browser, address) as other:
            for _ in range(2):  # two updates have come
                expect(other.locator("#figure-ended b")).not_to_have_text(ended(other))
        assert ended(page) == before
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("#figure-ended b")).not_to_have_text(before)


@needs_browser
@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_at_every_width_and_in_light_and_dark(
    browser: Browser, address: str, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 900}
    with opened(browser, address, viewport=size, color_scheme=scheme) as page:
        expect(page.locator("#ops")).to_contain_text("napped")
        page.get_by_role("button", name="Pause").click()  # or rows are replaced while they are looked at
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for name in ("body", "#ops td", "#ops th", "#errors li .bad", "button"):
            assert contrast(page, name) >= 4.5, name
        for box in page.locator(".figure b").all():
            assert box.evaluate("each => each.scrollWidth <= each.clientWidth + 1")


CONTRAST = """each => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  let ground = each;
  while (ground && channels(getComputedStyle(ground).backgroundColor)[3] === 0) ground = ground.parentElement;
  const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const colours = [getComputedStyle(each).color, getComputedStyle(ground).backgroundColor];
  const [dark, bright] = colours.map(channels).map(light).sort((one, other) => one - other);
  return (bright + 0.05) / (dark + 0.05);
}"""


def contrast(page: Page, name: str) -> float:
    """The contrast of a text with what is behind it, as the accessibility guidelines define it."""
    found: float = page.locator(name).first.evaluate(CONTRAST)
    return found


@needs_browser
def test_it_survives_a_reload_and_ten_open_pages(browser: Browser, address: str) -> None:
    context = browser.new_context()
    pages = [context.new_page() for _ in range(5)]
    other = browser.new_context()  # a browser keeps six connections to a server, and each page one
    pages += [other.new_page() for _ in range(5)]
    for page in pages:
        page.goto(address)
    for page in pages:
        expect(page.locator("#ops")).to_contain_text("napped")
    pages[0].reload()
    expect(pages[0].locator("#ops")).to_contain_text("napped")
    expect(pages[0].locator("#connection")).to_have_text("live")
    context.close()
    other.close()
    assert json.loads(get(address + "state"))["ended"] > 0


@needs_browser
def test_the_page_says_when_the_program_has_ended(browser: Browser, program: Path) -> None:
    with running(str(program)) as (process, address):
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        expect(page.locator("#connection")).to_have_text("live")
        process.kill()
        expect(page.locator("#connection")).to_contain_text("not connected")
        context.close()


@needs_browser
def test_it_works_mounted_under_a_path(browser: Browser) -> None:
    app = Starlette(routes=[Mount("/a/engine", engine.observe.dashboard())])
    engine.enable_eager_execution()
    ops.add(1, 2)
    with serving(app) as address, opened(browser, address + "/a/engine") as page:
        expect(page.locator("#ops")).to_contain_text("add")
        with suppress(Exception):
            page.goto("about:blank")
