"""Runs Python commands one after the other, as a shell would, but faster.

A process imports the libraries once; each command runs in a fork of it, which
has started no threads and no JAX backend. Only for tests of what a command
does, not of how its process starts: of variables that are read as a process
starts the forks see those of the first.
"""

import contextlib
import gc
import json
import os
import pathlib
import runpy
import subprocess
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).parents[1]
Run = Callable[..., subprocess.CompletedProcess[str]]


@contextlib.contextmanager
def started(
  folder: pathlib.Path, packages: pathlib.Path = ROOT
) -> Iterator[Run]:
  """Starts the process and yields `run(*argv, cwd=ROOT, **env)`.

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
  out, errors = folder / 'out', folder / 'errors'

  def run(*argv, cwd=ROOT, **env):
    asked = {
      'argv': [str(argument) for argument in argv],
      'cwd': str(cwd),
      'env': common | env,
      'out': str(out),
      'errors': str(errors),
    }
    server.stdin.write(json.dumps(asked) + '\n')
    server.stdin.flush()
    status = int(server.stdout.readline())
    said = (file.read_text(errors='replace') for file in (out, errors))
    return subprocess.CompletedProcess(asked['argv'], status, *said)

  try:
    yield run
  finally:
    server.communicate()  # the end of its input is its own


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


def fork(
  argv: list[str], cwd: str, env: dict[str, str], out: str, errors: str
) -> int:
  """Runs a command in a child with its own folder, variables and output."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # JAX warns of forks after its threads
    child = os.fork()
  if child == 0:
    for number, file in ((1, out), (2, errors)):
      opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
      os.dup2(opened, number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    # As Python does, in place of this file's folder.
    own = cwd if argv[0] in ('-m', '-c') else os.path.dirname(argv[0])
    sys.path[0] = os.path.abspath(own)
    status = execute(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


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
    print(fork(**json.loads(line)), flush=True)
