"""Runs Python commands one after the other, as a shell would, but faster.

Reads JSON lines {"argv": [...], "cwd": ..., "log": ...} and prints each one's
exit status. Libraries are imported once; each command runs in a fork of this
process, which has started no threads and no JAX backend.
"""

import gc
import json
import os
import runpy
import sys
import traceback
import warnings

import bokeh.embed  # noqa: F401
import flax.linen  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import orbax.checkpoint  # noqa: F401
import pyarrow.parquet  # noqa: F401
import sklearn.svm  # noqa: F401
import tensorflow_datasets  # noqa: F401

import plankton_jax.checkpoints
import plankton_jax.train.loop  # noqa: F401


def run(argv: list[str]) -> int:
  """Runs `python ARGV...` in this process and returns its exit status."""
  try:
    if argv[0] == '-m':
      sys.argv = argv[1:]
      runpy.run_module(argv[1], run_name='__main__', alter_sys=True)
    else:
      sys.argv = argv
      runpy.run_path(argv[0], run_name='__main__')
  except SystemExit as stop:
    return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
  except BaseException:
    traceback.print_exc()
    return 70
  return 0


def fork(argv: list[str], cwd: str, log: str) -> int:
  """Runs a command in a child with its own folder and output."""
  sys.stdout.flush()
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # JAX warns of forks after its threads
    child = os.fork()
  if child == 0:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(cwd)
    sys.path.insert(0, cwd)
    status = run(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == '__main__':
  gc.set_threshold(50_000, 20, 50)  # as in conftest.py
  gc.freeze()
  for line in sys.stdin:
    print(fork(**json.loads(line)), flush=True)
