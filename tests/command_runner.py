"""Runs Python commands as a shell would, but faster.

A process imports the libraries once; each command runs in a fork of it, which
has started no threads and no JAX backend. Only for tests of what a command
does, not of how its process starts: of variables that are read as a process
starts the forks see those of the first.
"""

import atexit
import contextlib
import functools
import gc
import itertools
import json
import os
import pathlib
import runpy
import select
import signal
import subprocess
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).parents[1]


class Command:
  """A started command, with the part of Popen that tests use.

  Args:
    folder: has the files `out` and `errors`, and the pipe `ends`, which says
      the number of the process, and its exit status at the end.
  """

  def __init__(self, folder: pathlib.Path):
    self.returncode: int | None = None
    self.folder = folder
    self._ends = (folder / 'ends').open()
    self.pid = int(self._ends.readline())

  def poll(self) -> int | None:
    """Returns the exit status, or None while it runs."""
    with contextlib.suppress(subprocess.TimeoutExpired):
      self.wait(0)
    return self.returncode

  def wait(self, timeout: float | None = None) -> int:
    """Waits for the exit status, at most so many seconds."""
    if self.returncode is None:
      if not select.select([self._ends], [], [], timeout)[0]:
        raise subprocess.TimeoutExpired('python', timeout or 0.0)
      with self._ends:
        self.returncode = int(self._ends.readline())
    return self.returncode

  def kill(self) -> None:
    """Kills it, unless it has just ended."""
    with contextlib.suppress(ProcessLookupError):
      os.kill(self.pid, signal.SIGKILL)

  def communicate(self) -> tuple[str, str]:
    """Waits for its end, and reads what it printed and what it complained."""
    self.wait()
    out, errors = (self.folder / name for name in ('out', 'errors'))
    return out.read_text(errors='replace'), errors.read_text(errors='replace')


@contextlib.contextmanager
def started(
  folder: pathlib.Path, packages: pathlib.Path = ROOT
) -> Iterator[Callable[..., Command]]:
  """Starts the process, and yields `start(*argv, cwd=ROOT, **env)`.

  Args:
    folder: takes what the commands print.
    packages: the folder that holds plankton_jax, analysis and configs.
  """
  common = os.environ | {
    'PYTHONPATH': str(packages),
    # As launch.py sets them, or it would restart the process.
    'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=0',
    'OMP_WAIT_POLICY': 'passive',
  }
  server = subprocess.Popen(
    [sys.executable, __file__],
    cwd=folder,
    env=common,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  numbers = itertools.count()

  def start(*argv, cwd=ROOT, **env):
    own = folder / str(next(numbers))
    own.mkdir()
    os.mkfifo(own / 'ends')
    asked = {
      'argv': [str(argument) for argument in argv],
      'cwd': str(cwd),
      'env': common | env,
      'folder': str(own),
    }
    server.stdin.write(json.dumps(asked) + '\n')
    server.stdin.flush()
    assert server.stdout.readline() == 'started\n'
    return Command(own)

  try:
    yield start
  finally:
    server.communicate()  # ends, as its input does


def finish(
  start: Callable[..., Command], *argv: object, **more: object
) -> subprocess.CompletedProcess[str]:
  """Runs a command to its end."""
  command = start(*argv, **more)
  out, errors = command.communicate()
  return subprocess.CompletedProcess(argv, command.wait(), out, errors)


def execute(argv: list[str]) -> int:
  """Runs `python ARGV...` in this process and returns its exit status."""
  what = argv[0]
  sys.argv = argv[1:] if what == '-m' else argv
  try:
    if what == '-m':
      runpy.run_module(argv[1], run_name='__main__', alter_sys=True)
    elif what == '-c':
      sys.argv = ['-c', *argv[2:]]
      sys.modules['__main__'] = main = types.ModuleType('__main__')
      exec(compile(argv[1], '<string>', 'exec'), vars(main))
    else:
      runpy.run_path(what, run_name='__main__')
  except SystemExit as stop:
    if isinstance(stop.code, str):
      print(stop.code, file=sys.stderr)
    return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
  except BaseException:
    traceback.print_exc()
    return 1
  return 0


def become(argv: list[str], cwd: str, env: dict[str, str], folder: str) -> int:
  """Makes this process that of a command, in a session of its own."""
  os.setsid()
  files = {
    0: (os.devnull, os.O_RDONLY),
    1: (f'{folder}/out', os.O_WRONLY | os.O_CREAT),
    2: (f'{folder}/errors', os.O_WRONLY | os.O_CREAT),
  }
  for number, (file, flags) in files.items():
    os.dup2(os.open(file, flags), number)
  os.chdir(cwd)
  os.environ.clear()
  os.environ.update(env)
  if platforms := env.get('JAX_PLATFORMS'):  # which JAX read at its import
    sys.modules['jax'].config.update('jax_platforms', platforms)
  # As Python does, in place of this file's folder.
  own = cwd if argv[0] in ('-m', '-c') else os.path.dirname(argv[0])
  sys.path[0] = os.path.abspath(own)
  status = execute(argv)
  # As Python does at its end, before it takes itself apart.
  threading._shutdown()
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  return status


def fork(work: Callable[[], int]) -> int:
  """Starts a fork of this process that does the work; returns its number."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # JAX warns of forks after its threads
    child = os.fork()
  if child == 0:
    os._exit(work())
  return child


def keep(asked: dict) -> int:
  """Starts a command, and tells its number and its end."""
  child = fork(lambda: become(**asked))
  with open(f'{asked["folder"]}/ends', 'w') as ends:
    print(child, file=ends, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=ends)
  return 0


def reap() -> None:
  """Waits for the forks that have ended."""
  with contextlib.suppress(ChildProcessError):  # there is none
    while os.waitpid(-1, os.WNOHANG)[0]:
      pass


def import_libraries() -> None:
  """Imports what takes long, and defines no flag of a command."""
  import bokeh.embed  # noqa: F401
  import flax.linen  # noqa: F401
  import matplotlib.pyplot  # noqa: F401
  import orbax.checkpoint  # noqa: F401
  import pyarrow.parquet  # noqa: F401
  import sklearn.svm  # noqa: F401
  import tensorflow_datasets  # noqa: F401

  import plankton_jax.checkpoints
  import plankton_jax.train.loop  # noqa: F401


if __name__ == '__main__':
  import_libraries()
  gc.set_threshold(50_000, 20, 50)  # as in conftest.py
  gc.freeze()
  for line in sys.stdin:
    fork(functools.partial(keep, json.loads(line)))
    print('started', flush=True)
    reap()
  reap()
