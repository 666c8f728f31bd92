"""Our scripts as processes of their own, without each of them importing torch anew.

`start` is `subprocess.Popen` of `python script.py …` or `python -c …` for tests of what such a process does: it has
its own memory, working directory, signals, streams and exit status. Only its birth differs: it is forked from a server
that imported the packages once, which saves two seconds of processor time per process. Tests of a start itself (what
is imported, how a bare interpreter finds its modules, an interrupt meanwhile) use `subprocess`.
"""

import atexit
import contextlib
import gc
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.process
import multiprocessing.reduction
import multiprocessing.spawn
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path
from unittest import mock

import untouched
from training import pool

ROOT = Path(__file__).resolve().parent.parent
# What the scripts import sooner or later, and they themselves; torch._inductor is what torch itself imports when it is
# told how deterministic to be.
FOLDERS = ("models", "corpora", "training", "analysis", "plotting", "tools")
PRELOADED = (
    "torch numpy pandas scipy.stats matplotlib.figure matplotlib.backends.backend_agg tabulate tqdm "
    "train prepare_data audit analyze_results plot_utils programs untouched torch.distributed.run torch._inductor"
).split() + [
    f"{path.parent.name}.{path.stem}" for folder in FOLDERS for path in sorted((ROOT / folder).glob("[!_]*.py"))
]
_turn = threading.Lock()  # the bookkeeping of multiprocessing is not made for several threads


def _server():
    """The context of the server of this test process, started at the first call; of a program, the one it is from."""
    context = multiprocessing.get_context("forkserver")
    if multiprocessing.forkserver.get_inherited_fds() is not None:
        return context
    context.set_forkserver_preload(PRELOADED)
    # one thread each: a process that has threads can't be forked safely
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with mock.patch.dict(os.environ, {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **single}):
        multiprocessing.forkserver.ensure_running()
    return context


class _Child:
    """A process forked from the server, with what `subprocess.Popen` has for one."""

    def __init__(self, arguments, context, target, given):
        self.args, self.returncode = arguments, None
        with _turn:
            self._process = context.Process(target=target, args=given)
            self._process.start()
            multiprocessing.process._children.discard(self._process)  # nobody waits for it when this process ends
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


class Program(_Child):
    """Output goes to files, so nobody has to read it meanwhile."""

    def __init__(self, arguments, cwd=None, env=None, limit=None):
        arguments = [str(a) for a in arguments]
        self._output = tempfile.TemporaryDirectory(prefix="program_")
        self._streams = [os.path.join(self._output.name, name) for name in ("out", "err")]
        environment, context = dict(os.environ if env is None else env), _server()
        server = multiprocessing.forkserver._forkserver._forkserver_address
        given = (arguments, str(cwd or os.getcwd()), environment, self._streams, limit, server)
        super().__init__(arguments, context, _run, given)

    def communicate(self, timeout=None):
        """(stdout, stderr), once it has ended."""
        self.wait(timeout)
        return tuple(Path(path).read_text(encoding="utf-8") if os.path.exists(path) else "" for path in self._streams)


class Worker(_Child):
    """What training/pool.py starts in a program: forked from the same server as the program itself."""

    def __init__(self, command, stdin, stdout, stderr, env, encoding, start_new_session):
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        self.stdin, self.stdout = os.fdopen(ours_in, "w", encoding=encoding), os.fdopen(ours_out, encoding=encoding)
        streams = [_Inherited(fd) for fd in (theirs_in, theirs_out, stderr.fileno())]
        *_, script = command
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        given = (script, os.getcwd(), env | {STARTED_BY: str(os.getpid())}, streams, limit)
        super().__init__(command, _server(), _run_worker, given)
        os.close(theirs_in)
        os.close(theirs_out)


class _Inherited:
    """An open file that a forked process gets; it is handed over with the fork."""

    def __init__(self, descriptor):
        self.descriptor = descriptor

    def __reduce__(self):
        return _received, (multiprocessing.reduction.DupFd(self.descriptor),)


def _received(duplicate):
    return duplicate.detach()


STARTED_BY = "STARTED_BY"  # in a worker's environment: the process that started it; its parent is the server
# in the place of the module `subprocess` in training/pool.py
FORKING = types.SimpleNamespace(**{**vars(subprocess), "Popen": Worker})


def workers_of(pid) -> list[int]:
    """Processes that `pid` started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, rest = (folder / "stat").read_text(encoding="utf-8").partition("(")[2].rpartition(")")
            if name == f"of {pid}" or int(rest.split()[1]) == pid:
                found.append(int(folder.name))
    return found


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


def fresh(*arguments, **options) -> subprocess.CompletedProcess:
    """Python with these arguments, in an interpreter that has imported nothing."""
    options = {"capture_output": True, "encoding": "utf-8", "timeout": 300, "check": False, **options}
    return subprocess.run([sys.executable, *map(str, arguments)], **options)


def peak_memory(*arguments) -> float:
    """How many megabytes prepare_data.py with these arguments has at most."""
    code = "import sys, prepare_data; status = prepare_data.main(sys.argv[1:]); "
    code += "print(open('/proc/self/status', encoding='utf-8').read()); sys.exit(status)"
    done = fresh("-c", code, *arguments, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split("VmHWM:")[1].split()[0]) / 1024  # of this program alone: exec starts it anew


# -- the process's side -------------------------------------------------------------------------------------------


def _run(arguments, folder, environment, streams, limit, server):
    """What the interpreter does with its command line."""
    for descriptor, path in enumerate(streams, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    _fork_workers(server)
    script, *_ = arguments
    _settle(folder, environment, [os.path.dirname(os.path.abspath(script)) if script != "-c" else ""])
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


def _fork_workers(server):
    """Worker processes of this program come from the server that it came from itself."""
    forkserver = multiprocessing.forkserver._forkserver
    forkserver._forkserver_address, forkserver.ensure_running = server, lambda: None
    multiprocessing.spawn.get_preparation_data = lambda name: {"name": name}  # of the program's main module nothing
    pool.subprocess = FORKING


def _run_worker(script, folder, environment, streams, limit):
    """As `python -P script`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    for descriptor, file in enumerate(streams):
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(0, encoding="utf-8"),
        os.fdopen(1, "w", encoding="utf-8"),
        os.fdopen(2, "w", encoding="utf-8"),
    )
    os.setsid()
    _settle(folder, environment, [])
    Path("/proc/self/comm").write_text(f"of {environment[STARTED_BY]}", encoding="utf-8")
    sys.argv = [script]
    runpy.run_path(script, run_name="__main__")


def _settle(folder, environment, first):
    """The environment and the search path of a fresh interpreter."""
    untouched.watch()
    gc.freeze()  # a collection would write to every object of the server, and so copy its memory page by page
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    given = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    ours = {str(ROOT), str(ROOT / "tests")}
    sys.path[:] = [*first, *given, *(path for path in sys.path if path not in ours and path)]
    for path in given:
        hook = Path(path) / "sitecustomize.py"
        if hook.exists():
            exec(compile(hook.read_text(encoding="utf-8"), str(hook), "exec"), {"__name__": "sitecustomize"})
