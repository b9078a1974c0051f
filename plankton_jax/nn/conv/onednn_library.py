"""Calls oneDNN's layers by the C interface of oneDNN 3 (dnnl.h)."""

import contextlib
import ctypes
import functools
import importlib.metadata
import math
import threading
from collections.abc import Sequence
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
_IMAGES, _MASK = (1, 17, 129, 145), 64
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
  library.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
  # What every call needs: known types are converted several times as fast.
  library.dnnl_memory_set_data_handle.argtypes = (_Handle, _Handle)
  library.dnnl_primitive_execute.argtypes = (
    *(_Handle, _Handle, ctypes.c_int, ctypes.POINTER(_Argument)),
  )
  library.omp_set_num_threads.argtypes = (ctypes.c_int,)
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


class Norm(NamedTuple):
  """Says what a batch norm takes, and what follows it."""

  images: tuple[int, ...]  # [B, H, W, C], bfloat16
  epsilon: float  # added to the variance
  rectified: bool  # a ReLU follows


class _Step(NamedTuple):
  primitive: _Handle
  arguments: Any
  alone: bool = False  # in the calling thread, without others


class Program:
  """Runs primitives in turn, over arrays whose addresses vary."""

  def __init__(self, memories: Sequence[_Handle], steps: Sequence[_Step]):
    self._memories, self._steps = memories, steps
    self._stream = _made('stream_create', _engine(), _IN_ORDER)
    self._lock = threading.Lock()

  def __call__(self, *addresses: int) -> None:
    """Reads and writes at these addresses, in the order of the memories."""
    library = load()
    with self._lock:
      for memory, address in zip(self._memories, addresses, strict=True):
        library.dnnl_memory_set_data_handle(memory, address)
      for primitive, arguments, alone in self._steps:
        with _OneThread() if alone else contextlib.nullcontext():
          status = library.dnnl_primitive_execute(
            primitive, self._stream, len(arguments), arguments
          )
        _check(status)


def convolution(kind: str, geometry: Geometry) -> Program:
  """Makes one pass of a convolution; takes images, kernel and outputs.

  The kernel and its gradient are float32. Products are taken in the images'
  type and summed in float32.

  Args:
    kind: 'forward', 'backward_data' or 'backward_weights'.
    geometry: of all three passes.

  Raises:
    RuntimeError: oneDNN cannot make this convolution.
  """
  images, kernel, outputs, strides, padding, dtype = geometry
  roles, kernel_layout = _PASSES[kind]
  layouts = (_images_layout(images, dtype), _images_layout(outputs, dtype))
  plan = _plan(kind, *layouts, _kernel_axes(kernel), strides, padding, dtype)
  blocked = _layout(plan, kernel_layout)
  dense = _dense_kernel_layout(kernel)
  first, last = map(_memory, layouts)
  ours, inner = _memory(dense), _memory(blocked, _ALLOCATED)
  run = _step(plan, roles, (first, inner, last))
  # oneDNN keeps kernels in blocks, in the images' type: our kernel is copied
  # there, and the gradient back.
  alone = math.prod(kernel) <= _ALONE
  if kind == 'backward_weights':
    steps = (run, _copy(blocked, inner, dense, ours, alone))
  else:
    steps = (_copy(dense, ours, blocked, inner, alone), run)
  return Program((first, ours, last), steps)


def batch_norm(kind: str, norm: Norm) -> Program:
  """Makes one pass of a batch norm in training, in the calling thread alone.

  Sums and vectors are float32. oneDNN's other threads would meet in a loop that
  never sleeps, as in `KernelGradient`.

  Args:
    kind: 'forward' takes images, scale, shift, outputs, means, variances and,
      if rectified, the mask of what passed. 'backward' takes images, the
      gradient of outputs, means, variances, scale, the mask, and the gradients
      of images, scale and shift.
    norm: of both passes.
  """
  roles = [r for r in _NORM_PASSES[kind] if norm.rectified or r != _MASK]
  with _OneThread():
    plan = _norm_plan(kind, norm)
    layouts = {
      role: _images_layout(norm.images, 'bfloat16') for role in _IMAGES
    }
    layouts[_MASK] = _layout(plan, _MASK_LAYOUT)
    vector = _strided_layout(norm.images[-1:], (1,), 'float32')
    memories = [_memory(layouts.get(role, vector)) for role in roles]
    return Program(memories, (_step(plan, roles, memories, alone=True),))


def mask_size(norm: Norm) -> int:
  """Counts the bytes that say what passed a norm's ReLU."""
  with _OneThread():
    layout = _layout(_norm_plan('forward', norm), _MASK_LAYOUT)
  return load().dnnl_memory_desc_get_size(layout)


class KernelGradient:
  """The pass 'backward_weights', where each core takes a part of the batch.

  oneDNN's own threads meet in a loop that never sleeps, to sum in bfloat16 over
  the batch. Whenever another thread has one of their cores, the others burn
  theirs until it leaves: on a busy machine that took forty times as long. Here
  they sleep, which costs a tenth of a training step where nothing else runs.

  Takes the geometry of the whole batch; errors are those of `convolution`.
  """

  def __init__(self, geometry: Geometry):
    images, kernel, outputs = geometry[:3]
    self._size = math.prod(kernel)
    self._result = ctypes.c_float * self._size
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
      return convolution('backward_weights', part)

    self._convolve = _each(prepare, *self._bounds)

  def __call__(self, images: int, kernel: int, outputs: int) -> None:
    """Reads images and outputs at these addresses, and writes the kernel's."""
    gradients = np.empty((len(self._convolve) - 1, self._size), np.float32)
    targets = [kernel, *(row.ctypes.data for row in gradients)]

    def run(convolve, first, target):
      convolve(
        images + first * self._image, target, outputs + first * self._output
      )

    _each(run, self._convolve, self._bounds[0], targets)
    # The address is XLA's, of an array that lives as long as this call.
    result = memoryview(self._result.from_address(kernel))
    total = np.frombuffer(result, np.float32)

    def add(first, end):
      for gradient in gradients[:, first:end]:
        total[first:end] += gradient

    _each(add, *self._slices)


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
  """Maps as `map`, the first here and the others in the pool's threads."""
  first, *others = zip(*arguments, strict=True)
  waiting = [_pool().submit(function, *other) for other in others]
  with _OneThread():
    done = function(*first)
  return [done, *(future.result() for future in waiting)]


class _OneThread:
  """Lets oneDNN start no other threads from this one meanwhile."""

  def __enter__(self) -> None:
    self._before = load().omp_get_max_threads()
    load().omp_set_num_threads(1)

  def __exit__(self, *_: object) -> None:
    load().omp_set_num_threads(self._before)


def _check(status, name='primitive_execute'):
  if status:
    raise RuntimeError(f'oneDNN: {name} failed with status {status}')


def _call(name, *arguments):
  _check(getattr(load(), f'dnnl_{name}')(*arguments), name)


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


def _step(plan, roles, memories, *, alone=False):
  """Makes a primitive, over memories in their roles and a scratchpad."""
  scratchpad = _memory(_layout(plan, _SCRATCHPAD_LAYOUT), _ALLOCATED)
  arguments = _arguments((*roles, _SCRATCHPAD), (*memories, scratchpad))
  return _Step(_made('primitive_create', plan), arguments, alone)


def _layout(plan, which):
  return _Handle(load().dnnl_primitive_desc_query_md(plan, which, 0))


def _memory(layout, address=None):
  return _made('memory_create', layout, _engine(), address)


def _arguments(roles, memories):
  pairs = zip(roles, memories, strict=True)
  return (_Argument * len(roles))(*(_Argument(*pair) for pair in pairs))


def _copy(source_layout, source, target_layout, target, alone):
  engine = _engine()
  plan = _made(
    'reorder_primitive_desc_create',
    *(source_layout, engine, target_layout, engine, None),
  )
  arguments = _arguments((_FROM, _TO), (source, target))
  return _Step(_made('primitive_create', plan), arguments, alone)
