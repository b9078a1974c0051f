"""Keeps small products of matrices to one thread."""

import contextlib
from collections.abc import Iterator

from threadpoolctl import threadpool_limits


@contextlib.contextmanager
def single() -> Iterator[None]:
  """Lets scikit-learn, SciPy and NumPy use one thread.

  Threads that wait for each other take many times as long as one, where there
  are few rows. Only libraries that are loaded can be limited; so they are.
  """
  import sklearn.cluster
  import sklearn.linear_model
  import sklearn.svm  # noqa: F401

  with threadpool_limits(limits=1):
    yield
