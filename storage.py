"""Every byte that is written to disk, and every byte that is read back.

A reader never sees half a file: everything is written to a temporary file in the same folder, flushed to the disk and
renamed. What is read back is checked (checksums, keys, types) and nothing that is read can run code: JSON is strict
and checkpoints are loaded with torch's `weights_only`. Failures are a `StorageError` of one line that names the file
and says what to do.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import fnmatch
import functools
import hashlib
import io
import json
import math
import numbers
import os
import re
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SCHEMA_VERSION = 3  # of results files; train.py measures results of another one again, from their checkpoints


class StorageError(Exception):
    """A file can't be written or read. The message is one line that names the file and says what to do."""


# -- writing ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path in the folder of `path`; on success it is flushed to disk and renamed onto `path`.

    The folder is made when missing. The temporary name keeps the suffix, for writers that go by it. Raises
    StorageError: no space, no permission, a folder of that name, and the like. `path` is then as it was.
    """
    path = Path(path)
    temporary = path.parent / f".{path.stem}.{host_name()}.{os.getpid()}.tmp{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(_disk_message(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text as UTF-8. The name of a file in it may hold bytes that are no text: they become question marks."""
    write_bytes(path, text.encode("utf-8", "replace"))


def write_json(path: str | os.PathLike, value, compact: bool = False) -> None:
    """Strict JSON: a NaN or an infinity anywhere is a ValueError, never a token that other readers choke on."""
    form = {"allow_nan": False, **({"separators": (",", ":")} if compact else {"indent": 1})}
    text = json.dumps(value, ensure_ascii=False, **form)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a name of a file that isn't text: escaped, it is read back as it was
        text = json.dumps(value, **form)
    write_text(path, text + "\n")


def _disk_message(path: Path, error: OSError) -> str:
    reasons = {
        errno.ENOSPC: "the disk is full; free some space and run the same command again",
        errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
        errno.EFBIG: "the file is larger than this process may write; raise the limit and run the same command again",
        errno.EACCES: "permission denied; make the folder writable or choose another one",
        errno.EPERM: "permission denied; make the folder writable or choose another one",
        errno.EROFS: "the file system is read-only; choose another folder",
        errno.EISDIR: "there is a folder of that name; move it away",
        errno.EEXIST: "there is a file where a folder is needed; move it away",
        errno.ENOTDIR: "there is a file where a folder is needed; move it away",
        errno.ENOENT: "no such file or folder",
        errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    }
    reason = reasons.get(error.errno, error.strerror or str(error))
    return f"{path}: {reason} (what was finished is kept)"


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable. Not every file system lets a folder be opened; the rename is done either way."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def host_name() -> str:
    """This machine, in letters that a file name can hold."""
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40]


_TEMPORARY = re.compile(r"^\.(?P<stem>.*)\.(?P<host>[A-Za-z0-9-]+)\.(?P<pid>\d+)\.tmp(\.\w+)?$")


def listed(folder: str | os.PathLike, pattern: str = "*") -> list[Path]:
    """What is in a folder and matches the pattern, sorted, hidden files apart; nothing where there is no such folder.
    Raises StorageError: it can't be read, which is not the same as being empty."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StorageError(f"{folder}: can't be read: {error.strerror or error}") from error
    return sorted(Path(folder, name) for name in fnmatch.filter(names, pattern) if not name.startswith("."))


def clean_temporaries(folder: str | os.PathLike) -> list[Path]:
    """Remove temporaries that a killed process of this machine left in `folder`; those of live processes stay."""
    removed = []
    for path in sorted(Path(folder).glob(".*.tmp*")):
        match = _TEMPORARY.match(path.name)
        if match and match["host"] == host_name() and not _alive(int(match["pid"])):
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# -- reading ------------------------------------------------------------------------------------------------------


def read_bytes(path: str | os.PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file") from None
    except OSError as error:
        raise StorageError(f"{path}: can't be read: {error.strerror or error}") from error


def read_json(path: str | os.PathLike):
    """The JSON in a file, with or without a byte-order mark. NaN and Infinity tokens, which other tools write, are read
    as null. Raises StorageError: the file is missing, truncated or not JSON."""
    try:
        return json.loads(read_bytes(path), parse_constant=lambda token: None)
    except (ValueError, RecursionError) as error:
        message = f"{path}: not valid JSON ({' '.join(str(error).split())}); move it away or restore it"
        raise StorageError(message) from None


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | os.PathLike) -> str:
    """sha256 of a file's contents, read in pieces."""
    try:
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"{path}: can't be read: {error.strerror or error}") from error


def sha256_json(value) -> str:
    """sha256 of a value's canonical JSON. An infinity, as a damaged exponent gives, has a checksum too: a wrong one."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


# -- results ------------------------------------------------------------------------------------------------------


def file_name(activation: str) -> str:
    """An activation's name as part of file names: `module--function` for an import path. Raises ValueError: it would
    lead out of its folder."""
    if not activation or activation.startswith(".") or any(c in activation for c in "/\\\0"):
        raise ValueError(f"{activation!r} can't be part of a file name")
    return activation.replace(":", "--")


def activation_name(file_name: str) -> str:
    """The activation that a part of a file name stands for: the inverse of `file_name`."""
    return file_name.replace("--", ":")


def results_path(results_dir: str | os.PathLike, activation: str) -> Path:
    return Path(results_dir) / f"{file_name(activation)}_results.json"


def looks_path(results_dir: str | os.PathLike) -> Path:
    """The record of a study that is trained until it is decided."""
    return Path(results_dir) / "looks.json"


def clock_path(results_dir: str | os.PathLike, activation: str) -> Path:
    """Where the chaos clock of an activation is kept (questions/clock/measure.py)."""
    return Path(results_dir) / "clock" / f"{file_name(activation)}.json"


def write_results(results: dict, results_dir: str | os.PathLike) -> Path:
    """Write `{activation}_results.json`, sealed with a checksum over its contents, and return its path.

    Raises:
        ValueError: it departs from results.schema.json, or a number is not finite.
        StorageError: the disk refuses.
    """
    path = results_path(results_dir, results["activation"])
    left_out: list[str] = []
    problem = _problem(copy.deepcopy(results), results_schema(), "", left_out) or next(iter(left_out), None)
    if problem:
        raise ValueError(f"results of {results['activation']}: {problem}")
    sealed = {key: value for key, value in results.items() if key not in ("content_sha256", "left_out")}
    write_json(path, {**sealed, "content_sha256": sha256_json(sealed)})
    return path


def _records_settings(results) -> bool:
    """Whether the results record settings as ours do."""
    ours = isinstance(results, dict) and isinstance(results.get("fingerprint"), str)
    config = results.get("config") if ours else None
    path = config.get("dataset") if isinstance(config, dict) else None
    try:
        return isinstance(path, str) and os.path.exists(path)
    except ValueError:  # of no file system
        return False


def read_results(path: str | os.PathLike) -> dict:
    """The results in a file, ours or another tool's: what results.schema.json says, numbers finite or None.

    Optional keys that depart from it are left out, and named in `left_out`, a list, which is there only then. Raises
    StorageError: missing, damaged, edited since it was written, or a documented key is missing or of another type.
    """
    results, left_out = read_json(path), []
    try:
        problem = None if isinstance(results, dict) else "it is not a JSON object"
        if not problem and not _sealed(results):
            raise StorageError(
                f"{path}: its numbers were changed after it was written (checksum differs); restore it, or delete it "
                f"and run train.py again to derive it from the checkpoints"
            )
        # half of a surrogate pair is no text that could be written again
        text = json.dumps(results, ensure_ascii=False).encode("utf-16", "surrogatepass")
        recorded, results = results, json.loads(text.decode("utf-16", "replace"))
        if _records_settings(recorded):  # a path may hold bytes that are no text, and is compared with the one given
            results["config"]["dataset"] = recorded["config"]["dataset"]
        problem = problem or _problem(results, results_schema(), "", left_out) or _contradiction(results, left_out)
    except RecursionError:
        problem = "it is nested too deeply"
    if problem:
        raise StorageError(f"{path}: not a results file: {problem}")
    return {**results, "left_out": left_out} if left_out else results


def _sealed(results: dict) -> bool:
    """Whether the checksum is that of the contents. Ours always have one, other tools' files never."""
    seal, ours = results.get("content_sha256"), "schema_version" in results
    return not ours and seal is None or seal == sha256_json({k: v for k, v in results.items() if k != "content_sha256"})


@functools.cache
def results_schema() -> dict:
    """What a results file is: results.schema.json, a JSON Schema."""
    return read_json(Path(__file__).with_name("results.schema.json"))


TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "number": (int, float),
    "integer": (int, float),
}


def _problem(value, schema: dict, where: str, left_out: list[str]) -> str | None:
    """What departs from a JSON Schema, in words, or None. Keys of an object that it doesn't require are removed where
    they depart, and named in `left_out`. The keywords are those that results.schema.json uses."""
    while "$ref" in schema:
        schema = results_schema()["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(_is(value, kind) for kind in kinds):
        named = " or ".join(f"a{'n' if kind[0] in 'aeiou' else ''} {kind}" for kind in kinds if kind != "null")
        return f"{_shown(where, value)} is not {named}"
    if isinstance(value, dict):
        return _problem_of_object(value, schema, where, left_out)
    if isinstance(value, list):
        problems = (_problem(x, schema["items"], f"{where}[{i}]", left_out) for i, x in enumerate(value))
        return next(filter(None, problems), None)
    if isinstance(value, str):
        if len(value) > schema.get("maxLength", math.inf):
            return f"{_shown(where, value)} is longer than {schema['maxLength']} characters"
        if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
            return f"{_shown(where, value)} is not {'a name' if where == 'activation' else 'of the documented form'}"
    elif value is not None and not isinstance(value, bool):
        if value < schema.get("minimum", -math.inf):
            return f"{_shown(where, value)} is less than {schema['minimum']:g}"
        if value > schema.get("maximum", math.inf):
            return f"{_shown(where, value)} is more than {schema['maximum']:g}"
    return None


def _problem_of_object(value: dict, schema: dict, where: str, left_out: list[str]) -> str | None:
    required, properties = schema.get("required", ()), schema.get("properties", {})
    if missing := [key for key in required if key not in value]:
        return f"{where or 'it'} lacks {', '.join(missing)}"
    for key in list(value):
        place = f"{where}.{key}" if where else key
        problem = _problem(value[key], properties.get(key, schema["additionalProperties"]), place, left_out)
        if problem and key in required:
            return problem
        if problem:
            del value[key]
            left_out.append(problem)
    return None


def _is(value, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, TYPES[kind]) and not (kind == "integer" and isinstance(value, float) and value % 1)


def _shown(where: str, value) -> str:
    """`where=value` in one line, however long the value is."""
    digits = isinstance(value, int) and abs(value) > 10**40
    text = f"an integer of {len(str(abs(value)))} digits" if digits else repr(value)
    return f"{where}={text if len(text) <= 60 else text[:57] + '…'}"


def _contradiction(results: dict, left_out: list[str]) -> str | None:
    """What no schema can say: trials and pairs are there once; curves that belong together have one length."""
    ids = (t["trial_id"] for t in results["trials"] if t["trial_id"] is not None)
    pairs = [tuple(sorted(map(int, re.findall("[0-9]+", p["model_pair"])))) for p in results["reproducibility_metrics"]]
    for key, values in (("trial_id", ids), ("model_pair", (f"{i}_vs_{j}" for i, j in pairs))):
        if twice := [x for x, times in Counter(values).items() if times > 1]:
            return f"{key}={twice[0]} is there twice"
    if itself := [f"{a}_vs_{b}" for a, b in pairs if a == b]:
        return f"model_pair={itself[0]} is not of two trials"
    blocks = {len(p["relative_pd_by_block"]) for p in results["reproducibility_metrics"] if "relative_pd_by_block" in p}
    if len(blocks) > 1:
        left_out.append("relative_pd_by_block of different lengths")
        for pair in results["reproducibility_metrics"]:
            pair.pop("relative_pd_by_block", None)
    if divergence := results.get("divergence"):
        curves = [x for pair in divergence["pairs"].values() for x in pair.values() if x is not None]
        lengths = {
            len(x) for x in [*divergence["val_loss"].values(), *curves, divergence.get("steps")] if x is not None
        }
        if len(lengths) > 1:
            left_out.append("divergence, whose lists are of different lengths")
            del results["divergence"]
    return None


def number(x) -> float | None:
    """A finite number as a float, anything else as None."""
    usable = isinstance(x, numbers.Real) and not isinstance(x, bool) and abs(x) <= sys.float_info.max
    return float(x) if usable else None


# -- checkpoints --------------------------------------------------------------------------------------------------


def checkpoint_path(checkpoint_dir: str | os.PathLike, activation: str, trial: int) -> Path:
    return Path(checkpoint_dir) / file_name(activation) / f"trial_{trial}.pt"


def progress_path(checkpoint_dir: str | os.PathLike, activation: str, trial: int) -> Path:
    """A small JSON beside the checkpoint: how far the trial is. For `--status`, which loads no torch."""
    return Path(checkpoint_dir) / file_name(activation) / f"trial_{trial}.json"


def snapshot_paths(checkpoint_dir: str | os.PathLike, activation: str, trial: int) -> list[Path]:
    """The snapshots of an unfinished trial, newest first."""
    folder, steps = Path(checkpoint_dir) / file_name(activation), {}
    for path in folder.glob(f"trial_{trial}.step-*.snapshot"):
        if match := re.fullmatch(rf"trial_{trial}\.step-(\d+)\.snapshot", path.name):
            steps[int(match[1])] = path
    return [steps[step] for step in sorted(steps, reverse=True)]


def snapshot_path(checkpoint_dir: str | os.PathLike, activation: str, trial: int, step: int) -> Path:
    return Path(checkpoint_dir) / file_name(activation) / f"trial_{trial}.step-{step}.snapshot"


def remove_snapshots(checkpoint_dir: str | os.PathLike, activation: str, trial: int, keep: int) -> None:
    """Delete all but the newest `keep` snapshots of a trial. One that can't be deleted does no harm."""
    for path in snapshot_paths(checkpoint_dir, activation, trial)[keep:]:
        with contextlib.suppress(OSError):
            path.unlink()


def trial_numbers(checkpoint_dir: str | os.PathLike, activation: str, suffix: str = "pt") -> list[int]:
    """Numbers of the trials that have a checkpoint (or another file of theirs, by suffix), ascending."""
    folder = Path(checkpoint_dir) / file_name(activation)
    matches = (re.fullmatch(r"trial_([1-9][0-9]*)", path.stem) for path in listed(folder, f"trial_*.{suffix}"))
    return sorted(int(match[1]) for match in matches if match)


def save_checkpoint(path: str | os.PathLike, contents: dict) -> str:
    """Write a checkpoint and return the sha256 of the file.

    `contents` maps names to tensors, to nested dicts of them, or to plain JSON values. A checksum over the contents is
    stored with them, so that any damage shows when the file is loaded.
    """
    import torch

    buffer = io.BytesIO()
    # to memory first: torch's own file writer reports a full disk as an unspecific RuntimeError
    torch.save({**contents, "content_sha256": contents_sha256(contents)}, buffer)
    data = buffer.getbuffer()
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def load_checkpoint(path: str | os.PathLike, whole: bool = True) -> dict:
    """The contents of a checkpoint, on the CPU. Loading never executes code (`weights_only`).

    Not `whole`: without its checksum being checked, and its tensors are read when they are used; for a look at the
    settings, which takes a millisecond however large the file is. Raises StorageError: missing, truncated, altered, or
    a file that would run code.
    """
    import warnings

    import torch

    data = read_bytes(path) if whole else b"not read"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on foreign pickles; ours to the user follows
            source = io.BytesIO(data) if whole else os.fspath(path)
            contents = torch.load(source, map_location="cpu", weights_only=True, mmap=not whole)
        seal = contents.pop("content_sha256")
        intact = not whole or seal == contents_sha256(contents)
    except Exception:
        # a flipped byte can surface as nearly anything inside the unpickler
        problem = "damaged, or not a checkpoint of this program" if data else "the file is empty"
        raise StorageError(f"{path}: {problem}; nothing in it was run. {REMEDY}") from None
    if not intact:
        raise StorageError(f"{path}: damaged or altered (its checksum differs). {REMEDY}")
    return contents


REMEDY = "Restore it, or delete it and run the same command again to train this trial anew"


def contents_sha256(contents) -> str:
    """sha256 over names, types, shapes and bytes of everything in a checkpoint, in a canonical order."""
    digest = hashlib.sha256()
    _feed(digest, contents)
    return digest.hexdigest()


def _feed(digest, value) -> None:
    import torch

    if isinstance(value, dict):
        digest.update(b"{%d" % len(value))
        for key in sorted(value):
            digest.update(json.dumps(key).encode() + b":")
            _feed(digest, value[key])
    elif isinstance(value, torch.Tensor):
        flat = value.detach().contiguous().cpu().reshape(-1)
        digest.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    else:
        digest.update(json.dumps(value, sort_keys=True, allow_nan=False).encode())


# -- locks --------------------------------------------------------------------------------------------------------


class FileLock:
    """An advisory lock on a file that the kernel releases when its holder ends, however it ends.

    with FileLock(path):            # waits
        ...
    lock = FileLock(path)
    if lock.acquire(wait=False):    # doesn't
        ...
        lock.release()
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._file = None

    def acquire(self, wait: bool = True) -> bool:
        import fcntl

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = open(self.path, "a+b")  # noqa: SIM115 — stays open for as long as the lock is held
        except OSError as error:
            raise StorageError(_disk_message(self.path, error)) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return False
        except OSError as error:
            file.close()
            reason = error.strerror or error
            raise StorageError(f"{self.path}: can't be locked on this file system ({reason}); use another") from error
        self._file = file
        return True

    def release(self) -> None:
        # The file stays: removing it would let two processes hold "the" lock on two different files of one name.
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *exception) -> None:
        self.release()
