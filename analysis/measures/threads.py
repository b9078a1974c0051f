"""Keeps small products of matrices to one thread."""

import contextlib
import functools
from collections.abc import Iterator

from threadpoolctl import ThreadpoolController


@contextlib.contextmanager
def single() -> Iterator[None]:
  """Lets scikit-learn, SciPy and NumPy use one thread.

  Threads that wait for each other take many times as long as one, where there
  are few rows.
  """
  with _libraries().limit(limits=1):
    yield


@functools.cache
def _libraries() -> ThreadpoolController:
  """Finds the libraries that have threads, once: it takes a small fit's time.

  Only what is loaded can be found; so it is.
  """
  import sklearn.cluster
  import sklearn.linear_model
  import sklearn.svm  # noqa: F401

  return ThreadpoolController()
