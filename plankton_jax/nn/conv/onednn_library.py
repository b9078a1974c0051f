"""Calls oneDNN's layers by the C interface of oneDNN 3 (dnnl.h)."""

import contextlib
import ctypes
import functools
import importlib.metadata
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

_PACKAGE, _FILE = 'onednn-cpu-gomp', 'libdnnl.so.3'

# Enumerators of dnnl_types.h.
_CPU, _IN_ORDER, _ANY_LAYOUT = 1, 1, 1
_TYPES = {'bfloat16': 2, 'float32': 3}
_BYTES = {'bfloat16': 2, 'float32': 4}
_BFLOAT16_ISA = 0xE7  # dnnl_cpu_isa_avx512_core_bf16; AMX's includes its bits
_TRAINING, _DIRECT, _OWN_SCRATCHPAD = 64, 1, 1
_FROM, _TO, _SCRATCHPAD = 1, 17, 80
# The names of images, kernel and outputs in each pass; the kernel's layout.
_PASSES = {
  'forward': ((1, 33, 17), 131),
  'backward_data': ((129, 33, 145), 131),
  'backward_weights': ((1, 161, 145), 132),
}
_SCRATCHPAD_LAYOUT, _MASK_LAYOUT = 136, 135
# What a norm reads and then writes: images and their like, statistics, scale
# and shift, and the mask of what passed a ReLU.
_IMAGES_ROLES, _MASK = (1, 17, 129, 145), 64
_NORM_PASSES = {
  'forward': (1, 51, 52, 17, 49, 50, _MASK),
  'backward': (1, 145, 49, 50, 51, _MASK, 129, 255, 256),
}
_BACKWARD, _SCALED_SHIFTED, _RECTIFIED = 128, 6, 8
_ALLOCATED = ctypes.c_void_p(-1)
_ALONE = 1 << 16  # numbers that a thread sums without the others

_Handle = ctypes.c_void_p
_Pair = ctypes.c_int64 * 2


class _Argument(ctypes.Structure):
  _fields_ = (('role', ctypes.c_int), ('memory', _Handle))


@functools.cache
def load() -> ctypes.CDLL:
  """Loads the library, once.

  Raises:
    OSError: its package is not installed, or the system has no libgomp.
  """
  try:
    files = importlib.metadata.files(_PACKAGE) or ()
  except importlib.metadata.PackageNotFoundError:
    raise OSError(f'{_PACKAGE} is not installed') from None
  paths = [file.locate() for file in files if file.name == _FILE]
  if not paths:
    raise OSError(f'{_PACKAGE} holds no {_FILE}')
  library = ctypes.CDLL(str(paths[0]))
  query = library.dnnl_primitive_desc_query_md
  query.argtypes, query.restype = (_Handle, ctypes.c_int, ctypes.c_int), _Handle
  return library


def multiplies_bfloat16() -> bool:
  """Tells whether oneDNN multiplies bfloat16 by the processor's instructions.

  These are AVX512_BF16 or AMX, which accumulate in float32.

  Raises:
    OSError: as in `load`.
  """
  found = load().dnnl_get_effective_cpu_isa()
  return found & _BFLOAT16_ISA == _BFLOAT16_ISA


class Geometry(NamedTuple):
  """Says which arrays a convolution takes, and how it moves over them."""

  images: tuple[int, ...]  # [B, H, W, C]
  kernel: tuple[int, ...]  # [h, w, C, F]
  outputs: tuple[int, ...]  # [B, H', W', F]
  strides: tuple[int, ...]  # down and across
  padding: tuple[int, ...]  # top, bottom, left, right
  dtype: str  # of images and outputs, 'float32' or 'bfloat16'


class Convolution:
  """One pass of a convolution, for arrays of fixed shapes and types.

  The kernel and its gradient are float32. Products are taken in the images'
  type and summed in float32.

  Args:
    kind: 'forward', 'backward_data' or 'backward_weights'.
    geometry: of all three passes.

  Raises:
    RuntimeError: oneDNN cannot make this convolution.
  """

  def __init__(self, kind: str, geometry: Geometry):
    images, kernel, outputs, strides, padding, dtype = geometry
    roles, kernel_layout = _PASSES[kind]
    layouts = (_images_layout(images, dtype), _images_layout(outputs, dtype))
    plan = _plan(kind, *layouts, _kernel_axes(kernel), strides, padding, dtype)
    blocked = _layout(plan, kernel_layout)
    scratchpad = _layout(plan, _SCRATCHPAD_LAYOUT)
    dense = _dense_kernel_layout(kernel)
    self._images, self._outputs = map(_memory, layouts)
    self._kernel = _memory(dense)
    inner = _memory(blocked, _ALLOCATED)
    run = (
      _made('primitive_create', plan),
      _arguments(
        (*roles, _SCRATCHPAD),
        (
          *(self._images, inner, self._outputs),
          _memory(scratchpad, _ALLOCATED),
        ),
      ),
    )
    # oneDNN keeps kernels in blocks, in the images' type: our kernel is copied
    # there, and the gradient back.
    if kind == 'backward_weights':
      self._steps = (run, _copy(blocked, inner, dense, self._kernel))
    else:
      self._steps = (_copy(dense, self._kernel, blocked, inner), run)
    self._stream = _made('stream_create', _engine(), _IN_ORDER)
    self._lock = threading.Lock()

  def __call__(self, images: int, kernel: int, outputs: int) -> None:
    """Reads and writes at these addresses, on all cores."""
    with self._lock:
      for memory, address in (
        (self._images, images),
        (self._kernel, kernel),
        (self._outputs, outputs),
      ):
        _call('memory_set_data_handle', memory, _Handle(address))
      for primitive, arguments in self._steps:
        _execute(primitive, self._stream, arguments)


class KernelGradient:
  """The pass 'backward_weights', where each core takes a part of the batch.

  oneDNN's own threads meet in a loop that never sleeps, to sum in bfloat16 over
  the batch. Whenever another thread has one of their cores, the others burn
  theirs until it leaves: on a busy machine that took forty times as long. Here
  they sleep, which costs a tenth of a training step where nothing else runs.

  Takes the geometry of the whole batch; errors are those of `Convolution`.
  """

  def __init__(self, geometry: Geometry):
    images, kernel, outputs = geometry[:3]
    self._size = math.prod(kernel)
    parts = min(_cores(), images[0])
    self._bounds = _divided(images[0], parts)
    # A small gradient is summed sooner by one thread than by several.
    self._slices = _divided(self._size, min(parts, 1 + self._size // _ALONE))
    self._image, self._output = (
      math.prod(shape[1:]) * _BYTES[geometry.dtype]
      for shape in (images, outputs)
    )

    def prepare(first, end):
      part = geometry._replace(
        images=(end - first, *images[1:]), outputs=(end - first, *outputs[1:])
      )
      return Convolution('backward_weights', part)

    self._convolve = _each(prepare, *self._bounds)

  def __call__(self, images: int, kernel: int, outputs: int) -> None:
    """Reads images and outputs at these addresses, and writes the kernel's."""
    gradients = np.empty((len(self._convolve), self._size), np.float32)

    def run(convolve, first, gradient):
      convolve(
        images + first * self._image,
        gradient.ctypes.data,
        outputs + first * self._output,
      )

    _each(run, self._convolve, self._bounds[0], gradients)
    pointer = ctypes.cast(kernel, ctypes.POINTER(ctypes.c_float))
    total = np.ctypeslib.as_array(pointer, (self._size,))

    def add(first, end):
      gradients[:, first:end].sum(axis=0, out=total[first:end])

    _each(add, *self._slices)


class Norm(NamedTuple):
  """Says what a batch norm takes, and what follows it."""

  images: tuple[int, ...]  # [B, H, W, C], bfloat16
  epsilon: float  # added to the variance
  rectified: bool  # a ReLU follows

  def mask_size(self) -> int:
    """Counts the bytes that say what passed the ReLU."""
    with _one_thread():
      layout = _layout(_norm_plan('forward', self), _MASK_LAYOUT)
    size = load().dnnl_memory_desc_get_size
    size.restype = ctypes.c_size_t
    return size(layout)


class BatchNorm:
  """One pass of a batch norm in training, in the calling thread alone.

  Sums and vectors are float32. oneDNN reads images less often than XLA, which
  keeps them in float32 from one pass to the next. Its other threads would meet
  in a loop that never sleeps, as in `KernelGradient`.

  Args:
    kind: 'forward' or 'backward'.
    norm: of both passes.
  """

  def __init__(self, kind: str, norm: Norm):
    roles = [r for r in _NORM_PASSES[kind] if norm.rectified or r != _MASK]
    with _one_thread():
      plan = _norm_plan(kind, norm)
      self._primitive = _made('primitive_create', plan)
    images = _images_layout(norm.images, 'bfloat16')
    vector = _strided_layout(norm.images[-1:], (1,), 'float32')
    layouts = {role: images for role in _IMAGES_ROLES}
    layouts[_MASK] = _layout(plan, _MASK_LAYOUT)
    self._memories = [_memory(layouts.get(role, vector)) for role in roles]
    scratchpad = _memory(_layout(plan, _SCRATCHPAD_LAYOUT), _ALLOCATED)
    self._arguments = _arguments(
      (*roles, _SCRATCHPAD), (*self._memories, scratchpad)
    )
    self._stream = _made('stream_create', _engine(), _IN_ORDER)
    self._lock = threading.Lock()

  def __call__(self, *addresses: int) -> None:
    """Reads and writes at these addresses.

    Forward takes images, scale and shift, and writes outputs, means, variances
    and, if rectified, the mask. Backward takes images, the gradient of outputs,
    means, variances, scale and the mask, and writes the gradients of images,
    scale and shift.
    """
    with self._lock, _one_thread():
      for memory, address in zip(self._memories, addresses, strict=True):
        _call('memory_set_data_handle', memory, _Handle(address))
      _execute(self._primitive, self._stream, self._arguments)


def _divided(count, parts):
  """Returns where each of equal parts begins, and where it ends."""
  bounds = [count * i // parts for i in range(parts + 1)]
  return bounds[:-1], bounds[1:]


@functools.cache
def _cores():
  """Counts the threads of libgomp: OMP_NUM_THREADS, or this process's cores."""
  return load().omp_get_max_threads()


@functools.cache
def _pool():
  """Makes threads in which oneDNN starts no others."""
  alone = load().omp_set_num_threads
  return ThreadPoolExecutor(_cores(), 'onednn', alone, (1,))


def _each(function, *arguments):
  """Maps as `map`, in the pool's threads; returns when all is done."""
  several = len(arguments[0]) > 1
  return [*(_pool().map if several else map)(function, *arguments)]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
  """Lets oneDNN start no threads from this one meanwhile."""
  cores, limit = _cores(), load().omp_set_num_threads
  limit(1)
  try:
    yield
  finally:
    limit(cores)


def _call(name, *arguments):
  status = getattr(load(), f'dnnl_{name}')(*arguments)
  if status:
    raise RuntimeError(f'oneDNN: {name} failed with status {status}')


def _made(name, *arguments):
  """Calls a function, and returns what it writes to its first argument."""
  made = _Handle()
  _call(name, ctypes.byref(made), *arguments)
  return made


@functools.cache
def _engine():
  return _made('engine_create', _CPU, ctypes.c_size_t(0))


def _axes(numbers):
  return (ctypes.c_int64 * len(numbers))(*numbers)


def _strided_layout(shape, strides, dtype):
  return _made(
    'memory_desc_create_with_strides',
    len(shape),
    _axes(shape),
    _TYPES[dtype],
    _axes(strides),
  )


def _images_layout(shape, dtype):
  batch, height, width, channels = shape
  row = width * channels
  return _strided_layout(
    (batch, channels, height, width), (height * row, 1, row, channels), dtype
  )


def _kernel_axes(kernel):
  height, width, channels, features = kernel
  return features, channels, height, width


def _dense_kernel_layout(kernel):
  _, width, channels, features = kernel
  tap = channels * features
  return _strided_layout(
    _kernel_axes(kernel), (1, features, width * tap, tap), 'float32'
  )


def _any_layout(axes, dtype):
  """Leaves the layout to oneDNN."""
  return _made(
    'memory_desc_create_with_tag',
    *(len(axes), _axes(axes), _TYPES[dtype], _ANY_LAYOUT),
  )


def _plan(kind, images, outputs, kernel_axes, strides, padding, dtype):
  """Describes the primitive, and lets oneDNN choose the kernel's layout."""
  kernel = _any_layout(kernel_axes, dtype)
  attributes = _own_scratchpad()
  top, bottom, left, right = padding
  geometry = (
    *(_Pair(*strides), _Pair(0, 0)),  # no dilation
    *(_Pair(top, left), _Pair(bottom, right)),
  )
  engine, no_bias = _engine(), None
  create = 'convolution_{}_primitive_desc_create'
  forward = _made(
    create.format('forward'),
    *(engine, _TRAINING, _DIRECT, images, kernel, no_bias, outputs),
    *(*geometry, attributes),
  )
  if kind == 'forward':
    return forward
  arrays: tuple[Any, ...] = (images, kernel, outputs)
  if kind == 'backward_weights':
    gradient = _any_layout(kernel_axes, 'float32')
    arrays = (images, gradient, no_bias, outputs)
  return _made(
    create.format(kind),
    *(engine, _DIRECT, *arrays, *geometry, forward, attributes),
  )


def _norm_plan(kind, norm):
  """Describes the primitive of a batch norm with scale and shift."""
  images = _images_layout(norm.images, 'bfloat16')
  epsilon = ctypes.c_float(norm.epsilon)
  flags = _SCALED_SHIFTED | (_RECTIFIED if norm.rectified else 0)
  attributes = _own_scratchpad()
  create = 'batch_normalization_{}_primitive_desc_create'
  forward = _made(
    create.format('forward'),
    *(_engine(), _TRAINING, images, images, epsilon, flags, attributes),
  )
  if kind == 'forward':
    return forward
  return _made(
    create.format('backward'),
    *(_engine(), _BACKWARD, images, images, images),
    *(epsilon, flags, forward, attributes),
  )


def _own_scratchpad():
  """Makes attributes of a primitive whose scratchpad we allocate."""
  attributes = _made('primitive_attr_create')
  # The library's default belongs to the calling thread, and threads vary.
  _call('primitive_attr_set_scratchpad_mode', attributes, _OWN_SCRATCHPAD)
  return attributes


def _execute(primitive, stream, arguments):
  _call('primitive_execute', primitive, stream, len(arguments), arguments)


def _layout(plan, which):
  return _Handle(load().dnnl_primitive_desc_query_md(plan, which, 0))


def _memory(layout, address=None):
  return _made('memory_create', layout, _engine(), address)


def _arguments(roles, memories):
  pairs = zip(roles, memories, strict=True)
  return (_Argument * len(roles))(*(_Argument(*pair) for pair in pairs))


def _copy(source_layout, source, target_layout, target):
  engine = _engine()
  plan = _made(
    'reorder_primitive_desc_create',
    *(source_layout, engine, target_layout, engine, None),
  )
  return (
    _made('primitive_create', plan),
    _arguments((_FROM, _TO), (source, target)),
  )
