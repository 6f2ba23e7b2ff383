"""The demo: what it refuses, that its three ways agree bit for bit, and what it prints and writes."""

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import cli
from engine.demo import main as demo, measure, picture, relief, terrain
from engine.demo.measure import Report
from engine.demo.ways import PICTURES, STEPS, WAYS, Tiny, Visitors

ROOT = Path(__file__).resolve().parents[2]
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def hills(rows: int = 12, columns: int = 17) -> terrain.Array:
    """A small elevation model."""
    heights: terrain.Array = np.random.default_rng(5).integers(200, 400, (rows, columns)).astype(np.int16)
    return heights


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small elevation model in a file."""
    path = tmp_path / "hills.npz"
    np.savez(path, elevation=hills(), dx=80.0, dy=90.0)
    return path


# What is read


def test_a_file_with_lengths_in_metres(model: Path) -> None:
    loaded = terrain.load(model, cell=30)
    assert loaded.elevation.dtype == np.float32
    assert np.array_equal(loaded.elevation, hills())
    assert (loaded.dx, loaded.dy) == (80.0, 90.0)


def test_lengths_in_degrees_become_metres(tmp_path: Path) -> None:
    path = tmp_path / "hills.npz"
    np.savez(path, elevation=hills(), dx=0.001, dy=0.001, ymin=59.0, ymax=61.0)
    loaded = terrain.load(path, cell=30)
    assert [loaded.dx, loaded.dy] == pytest.approx([55.6, 111.2])


@pytest.mark.parametrize("name", ["hills.npy", "hills.npz"])
def test_an_array_alone_has_cells_as_asked_for(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        if path.suffix == ".npy":
            np.save(file, hills())
        else:
            np.savez(file, anything=hills())
    loaded = terrain.load(path, cell=12.5)
    assert np.array_equal(loaded.elevation, hills())
    assert (loaded.dx, loaded.dy) == (12.5, 12.5)


def test_the_sample_is_what_matplotlib_ships() -> None:
    loaded = terrain.load(picture.sample(), cell=30)
    assert loaded.elevation.shape == (344, 403)
    assert [loaded.dx, loaded.dy] == pytest.approx([74.4, 92.7], abs=0.1)


def saved(**arrays: Any) -> bytes:
    """The bytes of an .npz file, or of an .npy file for `only`."""
    file = io.BytesIO()
    if "only" in arrays:
        np.save(file, arrays["only"], allow_pickle=True)
    else:
        np.savez(file, **arrays)
    return file.getvalue()


UNUSABLE = {
    "wrong-suffix": ("hills.tif", saved(only=hills()), "expected an .npy or .npz file"),
    "empty-file": ("hills.npz", b"", "cannot be read as NumPy data"),
    "not-numpy": ("hills.npz", b"elevation, in words\n", "cannot be read as NumPy data: expected arrays of numbers"),
    "truncated-npz": ("hills.npz", saved(elevation=hills())[:300], "cannot be read as NumPy data"),
    "truncated-npy": ("hills.npy", saved(only=hills())[:150], "cannot be read as NumPy data"),
    "damaged-header": ("hills.npy", saved(only=hills())[:12] + b"\xff" * 116, "cannot be read as NumPy data"),
    "objects": ("hills.npy", saved(only=np.array([[{}]])), "cannot be read as NumPy data: expected arrays of numbers"),
    "one-dimension": ("hills.npy", saved(only=np.arange(9)), "its shape is (9,)"),
    "three-dimensions": ("hills.npz", saved(elevation=np.zeros((2, 3, 4))), "its shape is (2, 3, 4)"),
    "one-row": ("hills.npy", saved(only=np.zeros((1, 9))), "its shape is (1, 9)"),
    "no-rows": ("hills.npy", saved(only=np.zeros((0, 9))), "its shape is (0, 9)"),
    "complex": ("hills.npy", saved(only=np.zeros((3, 3), complex)), "dtype is complex128"),
    "not-finite": ("hills.npy", saved(only=np.full((3, 3), np.nan)), "not finite"),
    "no-arrays": ("hills.npz", saved(), "holds []"),
    "two-arrays": ("hills.npz", saved(a=hills(), b=hills()), "holds ['a', 'b']"),
    "negative-dx": ("hills.npz", saved(elevation=hills(), dx=-1.0), "dx must be one positive number"),
    "words-as-dy": ("hills.npz", saved(elevation=hills(), dy="far"), "dy must be one positive number"),
}


@pytest.mark.parametrize(("name", "content", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_input_gets_one_line_and_status_2(
    name: str, content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert cli.main(["demo", "--input", str(path), "--output", str(tmp_path / "relief.png")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"eagerloop demo: {path}: ")
    assert message in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input", "nowhere.npz"], "nowhere.npz: no such file"),
        (["--input", "."], "expected an .npy or .npz file"),
        (["--output", "nowhere/relief.png"], "relief.png: cannot be written"),
        (["--output", "."], "cannot be written"),
        (["--factor", "32"], "try --factor with less"),
    ],
    ids=["missing", "folder", "output-in-no-folder", "output-is-a-folder", "too-large"],
)
def test_what_cannot_be_done_is_said_before_the_work(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", *options]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")


def test_without_matplotlib_it_says_what_to_install(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(picture, "cbook", None)
    assert cli.main(["demo", "--input", str(model)]) == 2
    assert capsys.readouterr().err == "eagerloop demo: matplotlib is missing: pip install 'eagerloop[demo]'\n"


# What is computed


async def computed(name: str, job: relief.Job) -> tuple[list[terrain.Array], int]:
    """The pictures of one way, and how many steps it told of."""
    steps = []
    answers = []

    @asynccontextmanager
    async def visitors(tiny: Tiny) -> AsyncIterator[None]:
        yield
        answers.append(await tiny(measure.NUMBERS))

    pictures = await WAYS[name][1](job, lambda: steps.append(name), visitors)
    assert answers == [np.sum(np.sqrt(measure.NUMBERS))]
    return pictures, len(steps)


@pytest.mark.parametrize("name", [name for name in WAYS if name != "numpy"])
async def test_the_ways_agree_bit_for_bit(name: str) -> None:
    job = relief.plan(terrain.Terrain(hills().astype(np.float32), 80.0, 90.0), factor=3)
    (expected, _), (pictures, steps) = await computed("numpy", job), await computed(name, job)
    assert len(pictures) == len(PICTURES)
    assert steps == STEPS
    for label, wanted, found in zip(PICTURES, expected, pictures, strict=True):
        assert (found.shape, found.dtype) == ((36, 51), np.float32), label
        assert found.tobytes() == wanted.tobytes(), label


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_taps_are_weighted_means_and_differences(factor: int) -> None:
    taps = relief.taps(5, factor)
    assert taps.indices.shape == taps.weights.shape == taps.slopes.shape == (4, 5 * factor)
    assert taps.indices.min() == 0
    assert taps.indices.max() == 4
    np.testing.assert_allclose(taps.weights.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(taps.slopes.sum(axis=0), 0, atol=1e-6)


def plane(east: float, north: float) -> relief.Job:
    """A plane that rises by so much a metre, in cells of 10 by 20 metres."""
    rows, columns = np.mgrid[:9, :9]
    heights = (columns * 10 * east - rows * 20 * north).astype(np.float32)
    return relief.plan(terrain.Terrain(heights, 10.0, 20.0), factor=4)


INSIDE = (slice(8, -8), slice(8, -8))
"""Where the edges of a plane do not reach."""


def test_resampling_keeps_a_plane() -> None:
    job = plane(0.5, -0.25)
    heights = relief.height(np, job)[INSIDE]
    np.testing.assert_allclose(np.diff(heights, axis=1), 0.5 * 10 / 4, rtol=1e-4)
    np.testing.assert_allclose(np.diff(heights, axis=0), 0.25 * 20 / 4, rtol=1e-4)
    np.testing.assert_allclose(relief.slope_east(np, job)[INSIDE], 0.5 * relief.EXAGGERATION, rtol=1e-4)
    np.testing.assert_allclose(relief.slope_north(np, job)[INSIDE], -0.25 * relief.EXAGGERATION, rtol=1e-4)


def lit(job: relief.Job, azimuth: float) -> terrain.Array:
    """The shade of the inside of a plane."""
    east, north = relief.slope_east(np, job), relief.slope_north(np, job)
    shade: terrain.Array = relief.shade(np, east, north, relief.steepness(np, east, north), azimuth)[INSIDE]
    return shade


def test_flat_land_is_lit_alike_from_everywhere() -> None:
    for azimuth in relief.AZIMUTHS:
        np.testing.assert_allclose(lit(plane(0, 0), azimuth), np.sin(relief.ALTITUDE), rtol=1e-6)


@pytest.mark.parametrize(("east", "north", "azimuth"), [(-1, 0, 90), (1, 0, 270), (0, -1, 0), (0, 1, 180)])
def test_a_slope_that_faces_the_sun_is_the_brightest(east: float, north: float, azimuth: int) -> None:
    brightness = {sun: float(lit(plane(east * 0.3, north * 0.3), sun).mean()) for sun in relief.AZIMUTHS}
    assert max(brightness, key=brightness.__getitem__) == azimuth
    assert brightness[(azimuth + 180) % 360] < brightness[azimuth]


# What is measured


def test_a_late_beat_is_late_for_every_millisecond_that_it_missed() -> None:
    assert measure.lateness(1.0, 1.0035) == pytest.approx([0.0035, 0.0025, 0.0015, 0.0005])
    assert measure.lateness(1.0, 1.0) == [0.0]
    assert measure.lateness(1.0, 0.9995) == []  # the sleep ended early: the beat is still to come


async def test_a_timed_way_gives_its_pictures_its_time_and_lags(capsys: pytest.CaptureFixture[str]) -> None:
    async def way(job: relief.Job, step: Any, visitors: Visitors) -> list[terrain.Array]:
        step()
        answered = asyncio.Event()

        async def answer(numbers: terrain.Array) -> float:
            answered.set()
            return 1.0

        async with visitors(answer):
            await answered.wait()
        step()
        return [job.elevation]

    measured = await measure.timed(way, plane(0, 0))
    assert measured.pictures[0].shape == (9, 9)
    assert measured.seconds > 0
    assert min(measured.lags) >= 0
    assert measured.visits
    assert all(due >= 0 and wait >= 0 for due, wait in measured.visits)
    assert capsys.readouterr().out == '{"done": 1}\n{"done": 2}\n'


async def test_requests_come_whether_or_not_those_before_were_answered() -> None:
    visits: list[tuple[float, float]] = []
    asked = 0
    third = asyncio.Event()

    async def answer(numbers: terrain.Array) -> float:
        nonlocal asked
        asked += 1
        if asked == 3:
            third.set()
        await asyncio.Event().wait()
        return 0.0

    task = asyncio.create_task(measure.visiting(answer, 0.0, visits))
    await third.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(visits) >= 3  # those that were never answered count, too


@pytest.mark.parametrize(("count", "parts"), [(0, 0), (1, 1), (7, 3), (9, 9)])
def test_the_worst_of_each_part_is_kept(count: int, parts: int) -> None:
    lags = [float(index) for index in range(count)]
    found = measure.worst(lags, 3 if count == 7 else 240)
    assert len(found) == parts
    assert found[-1:] == lags[-1:]
    assert found == sorted(found)


def test_digests_tell_bits_shapes_and_dtypes_apart() -> None:
    zeros = np.zeros((2, 3), np.float32)
    others = [-zeros, zeros.T, zeros.astype(np.int32), zeros.reshape(6)]
    assert len({measure.digest(each) for each in [zeros, *others]}) == 5
    assert measure.digest(zeros) == measure.digest(np.asfortranarray(zeros))


# What is printed and written


def report(**changes: Any) -> Report:
    """A report with something of everything."""
    facts: dict[str, Any] = {
        "seconds": 1.25,
        "lag_p50": 0.0005,
        "lag_p99": 0.003,
        "lag_max": 0.25,
        "peak_bytes": 512_000_000,
        "digests": [f"{index}" for index in range(len(PICTURES))],
        "visit_p50": 0.002,
        "visit_p99": 0.01,
        "visit_max": 0.05,
    }
    return Report(**facts | changes)


def test_the_table_has_a_row_for_each_way() -> None:
    table = demo.table({name: report(peak_bytes=None if name == "numpy" else 512_000_000) for name in WAYS})
    times = ["1.25", "0.5", "3.0", "250.0", "2.0", "10.0", "50.0"]
    rows = {
        label: line.removeprefix(label).split()
        for line in table.splitlines()
        for label, _ in WAYS.values()
        if line.startswith(label)
    }
    assert rows["NumPy in the coroutine"] == [*times, "unknown"]
    assert rows["asyncio.to_thread"] == rows["eagerloop, ASYNC"] == [*times, "512"]


def test_the_engine_is_compared_with_the_others_whichever_is_better() -> None:
    other = report(seconds=2.5, lag_max=0.125, visit_max=0.0, peak_bytes=None)
    text = demo.table({"numpy": other, "threads": report(), "engine": report()})
    rows = {line[:32].strip(): line[32:].split() for line in text.splitlines() if line.startswith("beside")}
    assert rows["beside NumPy in the coroutine"] == ["0.50", "2.00", "1.00", "unknown", "unknown"]
    assert rows["beside asyncio.to_thread"] == ["1.00"] * 5


def test_pictures_that_differ_are_named() -> None:
    same = {name: report() for name in WAYS}
    assert demo.compare(same) == ""
    other = report(digests=["other", *report().digests[1:]])
    assert "sun at 0°" in demo.compare(same | {"engine": other})
    assert "blend" not in demo.compare(same | {"engine": other})


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (Terminal(), f"\r  NumPy [{' ' * 24}]  0 of {STEPS}\r  NumPy [{'#' * 24}] {STEPS} of {STEPS}\n"),
        (io.StringIO(), f"  NumPy: 0 of {STEPS} pictures done\n  NumPy: {STEPS} of {STEPS} pictures done\n"),
    ],
    ids=["terminal", "file"],
)
def test_progress_is_a_line_on_a_terminal_and_plain_lines_elsewhere(stream: io.StringIO, expected: str) -> None:
    show = demo.progress("NumPy", stream)
    show(0)
    show(STEPS)
    assert stream.getvalue().replace(f"{'NumPy':<24}", "NumPy") == expected


def run_demo(*options: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the demo as a user would, in `folder`."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "engine", "demo", *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MPLCONFIGDIR": str(folder / "matplotlib")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_demo_runs_from_a_file_to_a_picture(model: Path, tmp_path: Path) -> None:
    completed = run_demo("--quick", "--input", str(model), folder=tmp_path)
    assert completed.returncode == 0, completed.stderr
    for label, _ in WAYS.values():
        assert label in completed.stdout
        assert f"{label}: {STEPS} of {STEPS} pictures done" in completed.stderr
    assert f"All {len(PICTURES)} pictures are equal bit for bit" in completed.stdout
    assert "The shaded relief is in relief.png" in completed.stdout
    assert (tmp_path / "relief.png").read_bytes().startswith(PNG_SIGNATURE)


def test_a_way_that_dies_is_status_1(model: Path, tmp_path: Path) -> None:
    settings = demo.Settings(model, tmp_path / "relief.png", factor=1, cell=30.0)
    err = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "WAYS", {"no such way": ("A way that dies", None)})
        assert demo.run(settings, io.StringIO(), err) == 1
    assert "A way that dies failed (exit status 1)" in err.getvalue()
    assert not settings.output.exists()
