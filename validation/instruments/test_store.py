"""The store hands out finished artefacts only, whatever happens to the processes that make them."""

import json
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerwise.lab.manifest import MANIFEST, canonical
from layerwise.lab.store import Artefact, Store, read_arrays, write_arrays

SPEC: dict[str, Any] = {
    "kind": "toy-model",
    "seed": 3,
    "kept": (0, 2),
    "recipe": {"rate": 0.1, "steps": None},
}
SPAWN = multiprocessing.get_context("spawn")


def make(folder: Path) -> None:
    (folder / "part").mkdir()
    (folder / "part" / "weights.bin").write_bytes(bytes(range(256)))
    (folder / "notes.txt").write_text("made")


def make_more(folder: Path) -> None:
    make(folder)
    (folder / "more").write_text("more")


def must_not_make(folder: Path) -> None:
    raise AssertionError(f"made again in {folder}")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def leftovers(store: Store) -> list[Path]:
    return list((store.root / "temporary").iterdir())


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# Making and finding


def test_artefact_is_made_once_and_found_again(store: Store) -> None:
    assert not store.has(SPEC)
    made = store.build(SPEC, make, "toy")
    found = store.build(SPEC, must_not_make)
    assert made.fresh
    assert found == Artefact(made.path, made.key, made.digest, made.seconds, fresh=False)
    assert store.has(SPEC)
    assert made.path == store.root / "toy-model" / made.key
    assert (made.path / "part" / "weights.bin").read_bytes() == bytes(range(256))
    assert leftovers(store) == []


def test_manifest_says_what_was_made_and_with_what(store: Store) -> None:
    artefact = store.build(SPEC, make, "toy")
    manifest = json.loads((artefact.path / MANIFEST).read_text())
    assert manifest["spec"] == {
        "kind": "toy-model",
        "seed": 3,
        "kept": [0, 2],
        "recipe": {"rate": 0.1, "steps": None},
    }
    assert sorted(manifest["files"]) == ["notes.txt", "part/weights.bin"]
    assert manifest["describe"] == "toy"
    assert manifest["seconds"] == artefact.seconds >= 0
    assert manifest["versions"]["numpy"] == np.__version__


def test_equal_contents_have_equal_digests_whatever_the_specification(store: Store) -> None:
    first = store.build(SPEC, make)
    second = store.build(SPEC | {"seed": 4}, make)
    other = store.build(SPEC | {"seed": 5}, make_more)
    assert first.key != second.key
    assert first.digest == second.digest != other.digest


def test_making_may_build_other_artefacts(store: Store) -> None:
    def make_outer(folder: Path) -> None:
        inner = store.build({"kind": "inner"}, make)
        (folder / "digest").write_text(inner.digest)

    outer = store.build({"kind": "outer"}, make_outer)
    assert (outer.path / "digest").read_text() == store.build({"kind": "inner"}, must_not_make).digest


def test_failed_making_leaves_nothing(store: Store) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        store.build(SPEC, fail)
    assert not store.path_of(SPEC).exists()
    assert leftovers(store) == []
    assert store.build(SPEC, make).fresh


@pytest.mark.parametrize(
    ("bad_make", "message"),
    [
        (lambda folder: None, "no file"),
        (lambda folder: (folder / MANIFEST).write_text("{}"), "belongs to the store"),
        (lambda folder: (folder / "link").symlink_to("/etc/hostname"), "something else"),
    ],
    ids=["nothing", "manifest", "link"],
)
def test_unusable_contents_are_refused(store: Store, bad_make: Callable[[Path], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        store.build(SPEC, bad_make)
    assert not store.path_of(SPEC).exists()
    assert leftovers(store) == []


# Where it is


def test_place_is_the_argument_then_the_variable_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LAYERWISE_STORE", raising=False)
    assert Store.at().root.name == "layerwise"
    monkeypatch.setenv("LAYERWISE_STORE", str(tmp_path / "variable"))
    assert Store.at().root == tmp_path / "variable"
    assert Store.at(tmp_path / "argument").root == tmp_path / "argument"


def test_unwritable_place_says_what_to_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PermissionError, match=r"cannot be written .*Store\.at\(path\) .*LAYERWISE_STORE"):
        Store(tmp_path / "file" / "store").build(SPEC, make)


def test_finished_artefacts_are_served_without_writing(store: Store) -> None:
    store.build(SPEC, make)
    for name in ("locks", "temporary"):
        folder = store.root / name
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    assert store.has(SPEC)
    assert not store.build(SPEC, must_not_make).fresh
    assert not (store.root / "locks").exists()


# The address


def test_address_does_not_depend_on_the_order_of_keys(store: Store) -> None:
    shuffled = {"recipe": {"steps": None, "rate": 0.1}, "kept": [0, 2], "seed": 3, "kind": "toy-model"}
    assert store.path_of(shuffled) == store.path_of(SPEC)


def test_different_specifications_have_different_addresses(store: Store) -> None:
    values: list[Any] = [
        0,
        0.0,
        -0.0,
        False,
        None,
        "",
        "0",
        "null",
        [],
        {},
        [0],
        [[0]],
        [0, 0],
        {"a": 0},
        {"": 0},
    ]
    values += [
        1,
        1.0,
        True,
        "1",
        0.1,
        0.1 + 2**-56,
        "ä",
        "a\u0308",
        "\ud800",
        '"',
        "\\",
        ["a", "b"],
        ["a,b"],
        2**70,
    ]
    values += [{"a": {"b": 0}}, {"a": [{"b": 0}]}, {"a": 0, "b": 0}, {'a":0,"b': 0}]
    addresses = {store.path_of({"kind": "toy", "value": value}) for value in values}
    addresses |= {store.path_of({"kind": "toy", "wert": 0}), store.path_of({"kind": "toys", "value": 0})}
    assert len(addresses) == len(values) + 2


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (Path("x"), TypeError, r"spec\['a'\]\[1\] must be plain JSON .*PosixPath"),
        (np.int64(1), TypeError, "int64"),
        (np.zeros(2), TypeError, "ndarray"),
        ({1, 2}, TypeError, "set"),
        ({1: "x"}, TypeError, "text keys, got 1"),
        (b"x", TypeError, "bytes"),
        (float("nan"), ValueError, r"spec\['a'\]\[1\] must hold finite numbers, got nan"),
        (float("inf"), ValueError, "inf"),
    ],
)
def test_specification_that_is_not_json_is_refused(
    store: Store, value: object, error: type[Exception], message: str
) -> None:
    spec = {"kind": "toy", "a": [0, value]}
    for call in (lambda: store.build(spec, must_not_make), lambda: store.has(spec), lambda: canonical(spec)):
        with pytest.raises(error, match=message.replace("spec", "(spec|value)")):
            call()


@pytest.mark.parametrize("kind", [None, "", "Toy", "a b", "../x", "a/b", "-a", 3, "locks", "temporary"])
def test_kind_is_a_slug_and_not_reserved(store: Store, kind: object) -> None:
    with pytest.raises(ValueError, match=r'spec\["kind"\] must'):
        store.build({"kind": kind}, must_not_make)
    with pytest.raises(TypeError, match="mapping"):
        store.build(["kind"], must_not_make)  # type: ignore[arg-type]


# Damage


def flip_a_byte(folder: Path) -> str:
    path = folder / "part" / "weights.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    return "part/weights.bin has changed"


def remove_a_file(folder: Path) -> str:
    (folder / "notes.txt").unlink()
    return "notes.txt is missing"


def add_a_file(folder: Path) -> str:
    (folder / "cache.tmp").write_text("x")
    return "cache.tmp was added"


def link_a_file(folder: Path) -> str:
    (folder / "notes.txt").replace(folder.parent / "moved")
    (folder / "notes.txt").symlink_to(folder.parent / "moved")
    return "notes.txt is something else"


def remove_the_manifest(folder: Path) -> str:
    (folder / MANIFEST).unlink()
    return "manifest.json cannot be read"


def break_the_manifest(folder: Path) -> str:
    (folder / MANIFEST).write_bytes(b'{"spec": \xff')
    return "manifest.json cannot be read"


def empty_the_manifest(folder: Path) -> str:
    (folder / MANIFEST).write_text("[]")
    return "manifest.json cannot be read"


def edit_the_manifest(folder: Path) -> str:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"seed": 3', '"seed": 4'))
    return "manifest.json has changed"


def swap_with_another(folder: Path) -> str:
    other = Store(folder.parents[1]).build(SPEC | {"seed": 99}, make)
    (folder / MANIFEST).write_bytes((other.path / MANIFEST).read_bytes())
    return "another specification"


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        remove_a_file,
        add_a_file,
        link_a_file,
        remove_the_manifest,
        break_the_manifest,
        empty_the_manifest,
        edit_the_manifest,
        swap_with_another,
    ],
)
def test_damage_is_said_and_made_again(store: Store, damage: Callable[[Path], str]) -> None:
    intact = store.build(SPEC, make)
    words = damage(intact.path)
    assert not store.has(SPEC)
    with pytest.warns(UserWarning, match="is damaged") as caught:
        repaired = store.build(SPEC, make)
    (warning,) = caught
    assert words in str(warning.message)
    assert str(intact.path) in str(warning.message)
    assert warning.filename == __file__
    assert repaired.fresh
    assert (repaired.key, repaired.digest) == (intact.key, intact.digest)
    assert leftovers(store) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not store.build(SPEC, must_not_make).fresh


# Many processes


def build_slowly(root: Path, signals: Path, name: str) -> None:
    """Runs in another process: builds, and writes down whether it made, waited and got the whole thing."""

    def slow_make(folder: Path) -> None:
        (folder / "half.bin").write_bytes(b"0" * 4096)
        (signals / f"{name}.making").touch()
        wait_until(lambda: (signals / "go").exists())
        make(folder)

    def say(sentence: str) -> None:
        (signals / f"{name}.waiting.part").write_text(sentence)
        (signals / f"{name}.waiting.part").replace(signals / f"{name}.waiting")

    store = Store(root, on_wait=say)
    artefact = store.build(SPEC, slow_make, "toy")
    whole = (artefact.path / "part" / "weights.bin").stat().st_size == 256
    (signals / f"{name}.done").write_text(json.dumps([artefact.fresh, whole, artefact.digest]))


def test_of_two_processes_one_makes_and_one_waits(store: Store, tmp_path: Path) -> None:
    workers = [SPAWN.Process(target=build_slowly, args=(store.root, tmp_path, name)) for name in ("a", "b")]
    for worker in workers:
        worker.start()
    wait_until(lambda: len(list(tmp_path.glob("*.waiting"))) == 1)
    assert len(list(tmp_path.glob("*.making"))) == 1
    (tmp_path / "go").touch()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    results = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.done"))]
    assert sorted(fresh for fresh, _, _ in results) == [False, True]
    assert all(whole for _, whole, _ in results)
    assert len({digest for _, _, digest in results}) == 1
    assert next(tmp_path.glob("*.waiting")).read_text() == "waiting for another worker that makes toy"


@pytest.mark.parametrize("next_build", ["same", "other"])
def test_killed_while_making_leaves_nothing_that_counts(store: Store, tmp_path: Path, next_build: str) -> None:
    worker = SPAWN.Process(target=build_slowly, args=(store.root, tmp_path, "killed"))
    worker.start()
    wait_until((tmp_path / "killed.making").exists)
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
    assert len(leftovers(store)) == 1
    assert not store.has(SPEC)
    assert store.build(SPEC if next_build == "same" else {"kind": "other"}, make).fresh
    assert leftovers(store) == []
    assert store.build(SPEC, make).fresh == (next_build == "other")


def test_waiting_worker_takes_over_when_the_maker_is_killed(store: Store, tmp_path: Path) -> None:
    maker = SPAWN.Process(target=build_slowly, args=(store.root, tmp_path, "maker"))
    maker.start()
    wait_until((tmp_path / "maker.making").exists)
    heir = SPAWN.Process(target=build_slowly, args=(store.root, tmp_path, "heir"))
    heir.start()
    wait_until((tmp_path / "heir.waiting").exists)
    maker.kill()
    wait_until((tmp_path / "heir.making").exists)
    (tmp_path / "go").touch()
    heir.join(60)
    maker.join(60)
    assert json.loads((tmp_path / "heir.done").read_text())[:2] == [True, True]
    assert leftovers(store) == []


def test_temporary_of_a_living_maker_is_left_alone(store: Store) -> None:
    making, go = threading.Event(), threading.Event()

    def slow_make(folder: Path) -> None:
        making.set()
        assert go.wait(60)
        make(folder)

    maker = threading.Thread(target=store.build, args=(SPEC, slow_make))
    maker.start()
    assert making.wait(60)
    store.build({"kind": "other"}, make)
    assert len(leftovers(store)) == 1
    go.set()
    maker.join()
    assert store.has(SPEC)


def test_killed_between_files_of_a_damaged_artefact_is_swept(store: Store) -> None:
    artefact = store.build(SPEC, make)
    aside = store.root / "temporary" / f"{artefact.key}.1.damaged"
    artefact.path.rename(aside)  # what a process leaves that dies after moving a damaged folder aside
    assert store.build(SPEC, make).fresh
    assert leftovers(store) == []


# Arrays


def test_arrays_come_back_bit_for_bit(tmp_path: Path) -> None:
    payload = np.array([0x7FF8000000000123, 0x8000000000000000, 1], dtype=np.uint64).view(np.float64)
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "nan-payload, minus zero, subnormal": payload,
        "scalar": np.array(0.1, dtype=np.float32),
        "empty": np.zeros((0, 3), dtype=np.int64),
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "truth": np.array([True, False]),
        "transposed": np.arange(12, dtype=np.int32).reshape(3, 4).T,
        "strided": np.arange(12, dtype=np.float64)[::-3],
        "large": np.array([2**64 - 1], dtype=np.uint64),
    }
    write_arrays(tmp_path / "a.safetensors", arrays)
    back = read_arrays(tmp_path / "a.safetensors")
    assert list(back) == sorted(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()


def test_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {"b": np.arange(3), "a": np.ones((2, 2), np.float32)}
    write_arrays(tmp_path / "1", arrays)
    write_arrays(tmp_path / "2", dict(reversed(arrays.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_foreign_byte_order_keeps_its_values(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a", {"x": np.array([1, 258], dtype=">i4")})
    np.testing.assert_array_equal(read_arrays(tmp_path / "a")["x"], [1, 258])


@pytest.mark.parametrize(
    "value",
    [np.array([{}, None], dtype=object), np.array(["a"]), np.array(["2020"], dtype="M8[Y]"), [1, 2], 1.0],
    ids=["object", "text", "date", "list", "number"],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match="array 'x' must be of a kind in"):
        write_arrays(tmp_path / "a", {"x": value})
    assert not (tmp_path / "a").exists()
