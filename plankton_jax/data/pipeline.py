"""Loads images: source, records, cache and split in one call."""

import functools
import logging
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from plankton_jax.data import accounting, select, split_file, splits
from plankton_jax.data import classes as used_classes
from plankton_jax.data.pixels import bars, images
from plankton_jax.data.pixels import cache as decoded_cache
from plankton_jax.data.pixels.images import Preprocessing
from plankton_jax.data.sources import levels
from plankton_jax.data.sources.source import Measures, one_line
from plankton_jax.errors import InputError
from plankton_jax.files import home

log = logging.getLogger(__name__)


class Originals:
  """The images before resizing, by id."""

  def __init__(
    self,
    selected: select.Selected,
    decoded: decoded_cache.Cache,
    crop: Sequence[int],
  ):
    self._white, self._crop = decoded.white, crop
    self._records = functools.cache(lambda: selected.records().records)
    self._row = functools.cache(
      lambda: dict(zip(decoded.ids.tolist(), decoded.rows, strict=True))
    )

  def read(self, id: str) -> np.ndarray:
    """Reads uint8 [H, W] if grey, else [H, W, 3].

    Raises:
      KeyError: no image has this id.
    """
    record = self._records()[int(self._row()[id])]
    return images.decode(record.image, self._white, self._crop)


class Data(NamedTuple):
  """Decoded images with classes and split.

  Classes are ordered: those trained on, then unseen, then rare ones.
  """

  images: np.ndarray  # uint8 [N, size, size, C], memory-mapped
  labels: np.ndarray  # int32 [N], index into class_names; -1 if dropped
  ids: np.ndarray  # str [N]; for a folder the path relative to it
  class_names: tuple[str, ...]
  num_seen: int  # classes that are trained on
  # train, val, test, unseen, and rare where there is any -> sorted rows
  splits: dict[str, np.ndarray]
  fingerprint: str  # Of the source's content.
  originals: Originals  # .read(id) gives an image before resizing.
  # float32 [N] each, NaN where not known: height and width before resizing, px;
  # pixel_um, a pixel's side; and the object_* columns of an export
  measures: Mapping[str, np.ndarray] = types.MappingProxyType({})
  # 16-bit value that became white, given or found; 0 if all are of 8 bits
  white: int = 0
  accounts: accounting.Accounts | None = None  # the fate of all that was read

  def measures_of(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Selects the measures of some rows, by name."""
    return {name: values[rows] for name, values in self.measures.items()}


def load(
  workdir: str | Path,
  *,
  seed: int,
  writes: bool,
  source: str,
  path: str,
  name: str,
  data_dir: str,
  class_level: str,
  per_class: int,
  labelled_status: Sequence[str],
  image_rank: str | int,
  classes: Sequence[str],
  resize: str,
  size: int,
  channels: int,
  white: int,
  crop: Sequence[int],
  pixel_um: float,
  unseen_classes: int | Sequence[str],
  fractions: Sequence[float],
  group_by: str,
  group_regex: str,
  own_split: bool,
  rare: str,
  on_bad_image: str,
  cache_dir: str,
) -> Data:
  """Loads the images of `config.data` with the split that `workdir` keeps.

  The fields are those of a config that `config_check` has checked.

  Builds records and the decoded cache under `cache_dir` once for each content
  and settings, and the split once as workdir/split.json. Logs the fate of every
  object, and writes it to accounting.json and skipped.txt if `writes`.

  Raises:
    InputError: a field or the images cannot be used, or the data no longer
      fits the split.
  """
  if own_split and (source != 'folder' or class_level != 'auto'):
    raise InputError(
      "data.own_split needs data.source='folder' and data.class_level='auto'"
    )
  group_regex = select.group_regex(source, group_by, group_regex)
  splits.check(fractions, group_regex, rare)
  workdir, cache = Path(workdir), home.expand(cache_dir)
  selected = select.source(
    source=source,
    path=path,
    name=name,
    data_dir=data_dir,
    class_level=class_level,
    per_class=per_class,
    labelled_status=labelled_status,
    image_rank=image_rank,
    group_by=group_by,
    seed=seed,
    cache_dir=cache,
  )
  selected = select.choose(selected, classes)
  # Unknown names are refused before anything is decoded; of a count, as many
  # are drawn afterwards as there may be.
  named = 0 if isinstance(unseen_classes, int) else unseen_classes
  used_classes.order(selected.class_names, named, seed)
  settings = Preprocessing(size, resize, channels, white, tuple(crop))
  decoded = _decoded(selected, cache, settings)
  if decoded.skipped and on_bad_image == 'raise':
    bad, reason = decoded.skipped[0]
    raise InputError(
      f"{bad}: {reason}; remove it, or set data.on_bad_image='skip'"
    )
  labels, class_names, num_seen = _ordered(
    workdir, selected.class_names, decoded.labels, unseen_classes, seed
  )
  split = _split(
    workdir,
    decoded,
    labels,
    class_names,
    num_seen,
    fingerprint=selected.fingerprint,
    fractions=fractions,
    group_regex=group_regex,
    own_split=own_split,
    rare=rare,
    seed=seed,
  )
  if contrary := splits.contrary(decoded.digests, labels):
    first = decoded.ids[contrary[0]].tolist()
    log.warning(
      '%s images have copies in other classes, such as %s and %s: keep one',
      f'{sum(map(len, contrary)):,}',
      *(one_line(first[at]) for at in (0, -1)),
    )
  labels, class_names, num_seen = used_classes.arrange(
    labels, class_names, num_seen, split.rare, rare
  )
  accounts = accounting.make(
    read=selected.read,
    left_aside=selected.left_aside,
    skipped=decoded.skipped,
    ids=decoded.ids,
    labels=labels,
    split=split,
  )
  if writes:
    accounting.write(workdir, accounts)
  table = accounting.table(accounts, split, labels, num_seen, rare)
  log.info('split %s:%s', workdir / 'split.json', '\n  '.join(['', *table]))
  return Data(
    decoded.images,
    labels,
    decoded.ids,
    class_names,
    num_seen,
    split.rows,
    selected.fingerprint,
    Originals(selected, decoded, crop),
    _measures(decoded, selected.measures, pixel_um),
    white or (decoded.white if decoded.white > 255 else 0),
    accounts,
  )


def _ordered(
  workdir: Path,
  class_names: Sequence[str],
  labels: np.ndarray,
  unseen_classes: int | Sequence[str],
  seed: int,
) -> tuple[np.ndarray, tuple[str, ...], int]:
  """Puts seen classes first, and relabels images [N] so.

  Returns:
    Labels int32 [N], the names in their order, and how many are seen.
  """
  if isinstance(unseen_classes, int):
    unseen_classes = _drawn(workdir, class_names, labels, unseen_classes, seed)
  ordered, num_seen = used_classes.order(class_names, unseen_classes, seed)
  position = {name: label for label, name in enumerate(ordered)}
  relabel = np.array([position[name] for name in class_names], np.int32)
  return relabel[labels], ordered, num_seen


def _split(
  workdir: Path,
  decoded: decoded_cache.Cache,
  labels: np.ndarray,
  class_names: Sequence[str],
  num_seen: int,
  *,
  fingerprint: str,
  fractions: Sequence[float],
  group_regex: str,
  own_split: bool,
  rare: str,
  seed: int,
) -> splits.Split:
  """Reads workdir/split.json, or makes the split and keeps it there."""

  def make() -> splits.Split:
    if own_split:
      return splits.take(
        labels,
        decoded.digests,
        [levels.side(id) for id in decoded.ids.tolist()],
        class_names=class_names,
        num_seen=num_seen,
        rare=rare,
      )
    return splits.make(
      labels,
      decoded.digests,
      decoded.ids,
      class_names=class_names,
      num_seen=num_seen,
      fractions=fractions,
      group_regex=group_regex,
      rare=rare,
      seed=seed,
    )

  split = split_file.reuse_or_make(
    workdir / 'split.json',
    decoded.ids,
    make,
    fingerprint=fingerprint,
    settings={
      'unseen_classes': list(class_names[num_seen:]),
      'seen_classes': list(class_names[:num_seen]),
      'fractions': list(fractions),
      'group_regex': group_regex,
      'own_split': own_split,
      'rare': rare,
      'seed': seed,
    },
  )
  if own_split and (copies := splits.shared(decoded.digests, split)):
    log.warning(
      'data.own_split: %s images of val and test are in train, too: their'
      ' measures are too good',
      f'{copies:,}',
    )
  return split


def _measures(
  decoded: decoded_cache.Cache, known: Measures, pixel_um: float
) -> dict[str, np.ndarray]:
  """Collects the measures of the decoded images, float32 [N] each."""
  found = known.of(decoded.ids.tolist())
  if pixel_um:
    found['pixel_um'] = np.full(len(decoded.ids), pixel_um)
  height, width = decoded.sizes.T
  found = {'height': height, 'width': width, **found}
  return {name: np.asarray(v, np.float32) for name, v in found.items()}


def _drawn(
  workdir: Path,
  class_names: Sequence[str],
  labels: np.ndarray,
  count: int,
  seed: int,
) -> list[str]:
  """Draws unseen classes, or takes those of the workdir's split.

  Classes too small to be split measure little, so they are drawn last; fewer
  are drawn where two classes to train on would not be left.
  """
  counts = np.bincount(labels, minlength=len(class_names))
  small = [
    class_names[i] for i in np.flatnonzero(counts < splits.FEWEST).tolist()
  ]
  large = len(class_names) - len(small)
  drawn = min(count, max(large - 2, 0))
  before = split_file.unseen_classes(workdir / 'split.json')
  if before is not None and len(before) == count:
    return before
  if drawn < count:
    log.warning(
      'data.unseen_classes=%d: only %d can be held out, as two classes with %d'
      ' images are needed to train on',
      count,
      drawn,
      splits.FEWEST,
    )
  names, num_seen = used_classes.order(class_names, drawn, seed, small)
  return list(names[num_seen:])


def _decoded(
  selected: select.Selected, cache_dir: Path, settings: Preprocessing
) -> decoded_cache.Cache:
  """Opens the decoded images in the cache, built first if they are missing."""

  def place(white: int) -> Path:
    key = decoded_cache.key(selected.cached, settings._replace(white=white))
    return cache_dir / 'decoded' / key

  white = settings.white
  directory = place(white)
  # Given the white that was found before, the pixels are the same.
  if (
    white and place(0).is_dir() and decoded_cache.read(place(0)).white == white
  ):
    directory = place(0)
  started, reused = time.monotonic(), directory.is_dir()
  try:
    cache_dir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(
      f'data.cache_dir: {cache_dir}: {error.strerror}; choose another'
    ) from error
  if not reused:
    found = selected.records()
    decoded_cache.build(
      directory,
      found.records,
      found.skipped,
      settings._replace(white=white or images.white_of(found.deepest)),
    )
  decoded = decoded_cache.read(directory)
  if decoded.white > 255:
    log.info('16-bit images: %d becomes white (data.white)', decoded.white)
  log.info(
    '%s images of %d classes; cache %s at %s',
    f'{len(decoded.images):,}',
    len(selected.class_names),
    'reused' if reused else f'built in {time.monotonic() - started:.1f} s',
    directory,
  )
  if note := bars.describe(decoded.bars):
    log.warning('%s', note)
  return decoded
