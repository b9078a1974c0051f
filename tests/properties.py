"""Profiles and strategies of the property tests.

The default profile draws the same few examples each time, so that a failure
is the code's. HYPOTHESIS_PROFILE=thorough draws many new ones.
"""

import os
import tempfile

import hypothesis
import jax
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as extra
from objective_batches import unit

# Few shapes, as JAX compiles for each.
ROWS = 12
DIMS = (1, 4)

hypothesis.configuration.set_hypothesis_home_dir(
  os.path.join(tempfile.gettempdir(), 'hypothesis')
)
_shared = {'deadline': None, 'database': None}
hypothesis.settings.register_profile(
  'fast', max_examples=10, derandomize=True, **_shared
)
hypothesis.settings.register_profile('thorough', max_examples=1000, **_shared)
hypothesis.settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'fast'))
# For properties that compile nothing, and so cost little.
MANY = hypothesis.settings(
  max_examples=max(40, hypothesis.settings().max_examples),
  suppress_health_check=[hypothesis.HealthCheck.filter_too_much],
)


def grids(rows: int, dim: int, *, most: int = 3) -> st.SearchStrategy:
  """Whole numbers [rows, dim] float32: sums are exact, and ties are ties."""
  cells = st.integers(-most, most)
  drawn = extra.arrays(np.int8, (rows, dim), elements=cells)
  return drawn.map(lambda x: x.astype(np.float32))


@st.composite
def batches(draw, *, rows: int = ROWS, dims=DIMS, most_classes: int = 4):
  """(embeddings [rows, D], label [rows], valid [rows]), few values, many ties.

  Rows may be duplicates of each other, of length 0, of one class, each of its
  own class, or padding.
  """
  embeddings = draw(grids(rows, draw(st.sampled_from(dims))))
  classes = st.integers(0, most_classes - 1)
  label = draw(
    st.one_of(
      extra.arrays(np.int32, rows, elements=classes),
      st.just(np.zeros(rows, np.int32)),
      st.just(np.arange(rows, dtype=np.int32)),
    )
  )
  valid = draw(
    st.one_of(st.just(np.ones(rows, bool)), extra.arrays(bool, rows))
  )
  return embeddings, label, valid


@st.composite
def unit_batches(draw, **kwargs):
  """`batches` on the unit sphere; rows of length 0 point along an axis."""
  embeddings, label, valid = draw(batches(**kwargs))
  embeddings[~embeddings.any(axis=1), 0] = 1.0
  return unit(embeddings), label, valid


def permutations(rows: int = ROWS) -> st.SearchStrategy:
  """An order of the rows, int [rows]."""
  return st.permutations(range(rows)).map(np.array)


def keys() -> st.SearchStrategy:
  """JAX keys."""
  return st.integers(0, 2**31 - 1).map(jax.random.key)


def seeds() -> st.SearchStrategy:
  """Seeds, for what is random but without ties."""
  return st.integers(0, 2**31 - 1)


def batch_of(label, valid) -> dict[str, np.ndarray]:
  """Makes the batch that an objective's loss takes beside embeddings."""
  return {'label': np.asarray(label), 'valid': np.asarray(valid)}
