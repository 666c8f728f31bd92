"""Our scripts as processes of their own, without each of them importing torch anew.

`start` is `subprocess.Popen` of `python script.py …` or `python -c …` for tests of what such a process does: it has
its own memory, working directory, signals, streams and exit status. Only its birth differs: it is forked from a server
that imported the packages once, which saves two seconds of processor time per process. Tests of a start itself (what
is imported, how a bare interpreter finds its modules, an interrupt meanwhile) use `subprocess`.
"""

import atexit
import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
# What the scripts import sooner or later, and they themselves; torch._inductor is what torch itself imports when it is
# told how deterministic to be.
PRELOADED = (
    "torch numpy pandas scipy.stats matplotlib.figure matplotlib.backends.backend_agg tabulate tqdm "
    "train trial experiment prepare_data audit analyze_results plot_utils report conclusions studies status sample "
    "decompose verify checklist pool programs torch.distributed.run torch._inductor"
).split()
_turn = threading.Lock()  # the bookkeeping of multiprocessing is not made for several threads


def _server():
    """The context of the server of this test process, started at the first call."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    # one thread each: a process that has threads can't be forked safely
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with mock.patch.dict(os.environ, {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **single}):
        multiprocessing.forkserver.ensure_running()
    return context


class Program:
    """The part of `subprocess.Popen` that tests use; output goes to files, so nobody has to read it meanwhile."""

    def __init__(self, arguments, cwd=None, env=None, limit=None):
        self.args, self.returncode = [str(a) for a in arguments], None
        self._output = tempfile.TemporaryDirectory(prefix="program_")
        self._streams = [os.path.join(self._output.name, name) for name in ("out", "err")]
        environment = dict(os.environ if env is None else env)
        with _turn:
            self._process = _server().Process(
                target=_run, args=(self.args, str(cwd or os.getcwd()), environment, self._streams, limit)
            )
            self._process.start()
        self.pid = self._process.pid

    def wait(self, timeout=None):
        if self.returncode is None:
            if not multiprocessing.connection.wait([self._process.sentinel], timeout):
                raise subprocess.TimeoutExpired(self.args, timeout)
            with _turn:
                self._process.join()
                self.returncode = self._process.exitcode
        return self.returncode

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout=None):
        """(stdout, stderr), once it has ended."""
        self.wait(timeout)
        return tuple(Path(path).read_text(encoding="utf-8") if os.path.exists(path) else "" for path in self._streams)


def start(arguments, **options) -> Program:
    """`arguments`: a script, or -c and Python, and what follows. `limit`: no file may grow larger, in bytes."""
    return Program(arguments, **options)


def run(arguments, timeout=300, check=False, **options) -> subprocess.CompletedProcess:
    """`subprocess.run` with captured text."""
    program = start(arguments, **options)
    try:
        out, err = program.communicate(timeout)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
        raise
    done = subprocess.CompletedProcess(program.args, program.returncode, out, err)
    if check and done.returncode:
        raise AssertionError(f"{program.args} ended with status {done.returncode}:\n{err}")
    return done


# -- the process's side -------------------------------------------------------------------------------------------


def _run(arguments, folder, environment, streams, limit):
    """What the interpreter does with its command line."""
    for descriptor, path in enumerate(streams, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    given = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    ours = {str(ROOT), str(ROOT / "tests")}
    script, *_ = arguments
    first = "" if script == "-c" else os.path.dirname(os.path.abspath(script))
    sys.path[:] = [first, *given, *(path for path in sys.path if path not in ours and path)]
    for path in given:
        hook = Path(path) / "sitecustomize.py"
        if hook.exists():
            exec(compile(hook.read_text(), str(hook), "exec"), {"__name__": "sitecustomize"})
    try:
        if script == "-c":
            sys.argv = ["-c", *arguments[2:]]
            main = sys.modules["__main__"] = type(sys)("__main__")
            exec(compile(arguments[1], "<string>", "exec"), vars(main))
        else:
            sys.argv = arguments
            runpy.run_path(script, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
