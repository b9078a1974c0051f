"""Every field of a run, with its meaning. The other configs start here."""

from ml_collections import ConfigDict, config_dict

from plankton_jax.data.public import catalogue
from plankton_jax.errors import InputError

PLANKTONSET = (
  'PlanktonSet 1.0: Cowen, Sponaugle, Robinson, Luo and Guigand 2015,'
  ' NOAA NCEI accession 0127422, DOI 10.7289/v5d21vjd'
)
# Of FlowCAMNet's classes, those of the published experiment.
FLOWCAMNET_SEEN = (
  'chainthin',
  'darksphere',
  'Rhabdonellidae',
  'Odontella',
  'Codonellopsis',
  'Neoceratium',
)
FLOWCAMNET_UNSEEN = ('Retaria', 'Thalassionematales', 'Chaetoceros')


def get_config() -> ConfigDict:
  """The fields that every objective shares."""
  config = ConfigDict()

  config.seed = 0  # of everything random: split, weights, batches, augmentation
  config.epochs = 35  # passes over the training images
  config.validations_per_epoch = 5  # each may become the best checkpoint
  # Stop after so many validations without a new minimum of the loss; 0: never.
  config.early_stop_validations = 0
  # When the space shrinks to a point or a line: 'warn' once, or 'stop'.
  config.on_collapse = 'warn'
  config.citation = ''  # the data's source; stands under figures drawn from it
  # Compiled programs are kept here between runs; '': nowhere.
  config.compilation_cache_dir = '~/.cache/plankton_jax/compiled'

  config.data = data = ConfigDict()
  data.source = 'synthetic'  # 'synthetic', 'folder', 'ecotaxa' or 'tfds'
  # folder: the tree with one folder a class; ecotaxa: the export, zip or folder
  data.path = ''
  data.name = ''  # tfds: the prepared data set's name
  data.data_dir = ''  # tfds: where it was prepared; '': TFDS's own default
  # folder: a class is the folder's 'path', or its 'last' part; 'auto': its path
  # without folders on top that are called train, val and test, or are years
  data.class_level = 'auto'
  data.per_class = 300  # synthetic: images drawn for each class
  # ecotaxa: objects of these states count as labelled; others are left out.
  data.labelled_status = ('validated',)  # or 'predicted', 'dubious'
  # ecotaxa: of an object's images that of the 'lowest' or 'highest' img_rank,
  # or of a number, and the lowest where it has none of that rank.
  data.image_rank = config_dict.FieldReference('lowest', field_type=object)
  # Use these classes alone, seen and unseen, by their names; (): all.
  data.classes = ()
  data.size = 64  # side of the square that images are brought to, px
  data.resize = 'stretch'  # to a square, or 'pad' it with the background
  data.channels = 1  # 1: grey, 3: colour
  # 16-bit value that becomes white, such as 4095 of 12-bit cameras; 0: by the
  # images' largest value, the end of 8, 10, 12, 14 or 16 bits
  data.white = 0
  # Side of a pixel of the originals, micrometres; 0: as an export's table says
  data.pixel_um = 0.0
  data.crop = (0, 0, 0, 0)  # pixels off the top, right, bottom and left
  # Classes held out wholly: a tuple of names, or how many to draw by the seed.
  # Numbers in a tuple are names, as in (84963,); a number alone is a count.
  data.unseen_classes = config_dict.FieldReference(3, field_type=object)
  data.fractions = (0.75, 0.05, 0.20)  # of each seen class: train, val, test
  # folder: split as its folders train, val and test are
  data.own_split = False
  # ecotaxa: images of one 'sample' or 'acquisition' stay on one side of the
  # split; '': each image for itself.
  data.group_by = ''
  # Images whose ids give the same match (its first group) stay on one side of
  # the split, such as a sample or a timestamp; '': each image for itself.
  data.group_regex = ''
  # Seen classes with too few images to be split: 'gallery' keeps them to be
  # embedded and searched but not trained on, 'other' merges them, or 'drop'.
  data.rare = 'gallery'
  data.on_bad_image = 'skip'  # 'skip' (and list) unreadable files, or 'raise'
  data.cache_dir = '~/.cache/plankton_jax/data'  # records and decoded images

  config.batch = batch = ConfigDict()
  batch.size = 64  # images in a training step
  # P classes in a batch, or all if fewer; 0: drawn from all images alike.
  batch.classes = 0
  # K images of each of the P classes, P K being the size; 0: they share it.
  batch.per_class = 0
  # Draw 'images' alike, classes by the 'sqrt' of their size, or 'uniform'.
  batch.sampling = 'images'

  config.augment = augment = ConfigDict()  # each strength is off at 0
  # Mirror left-right, top-bottom and about the diagonal, each at even odds.
  augment.flip = True
  augment.rotate = 180.0  # largest angle either way, degrees
  augment.scale = 0.1  # size changes by up to this share either way
  augment.translate = 0.05  # largest shift, as a share of the side
  augment.brightness = 0.0  # largest change, as a share of full range
  augment.contrast = 0.1  # changes by up to this share either way
  augment.noise = 0.0  # standard deviation, as a share of full range

  config.encoder = encoder = ConfigDict()
  encoder.name = 'resnet18'  # 'resnet10', 'resnet18', 'resnet34', 'resnet50'
  encoder.width = 32  # features of the first stage; 64 in the paper
  # Share of the image's side that the stem keeps: 'full', 'half', 'quarter';
  # 'imagenet': a quarter, by the paper's 7x7 convolution and max-pooling.
  encoder.stem = 'quarter'
  encoder.embedding_dim = 128  # length of the embedding
  encoder.dtype = 'float32'  # of the computation: 'float32' or 'bfloat16'
  # Centred and scaled over the batch before it becomes unit length: embeddings
  # cannot end in one narrow cone. False: a linear layer alone.
  encoder.centred = True
  # Views that an embedding averages outside of training: 1, the image itself;
  # 8, its mirror images and quarter turns, at eight times the cost.
  encoder.poses = 1
  # Weights to begin from, torchvision's or timm's ResNet-18, 34 or 50 as .pth
  # or .safetensors, with stem 'imagenet' and width 64; '': random ones.
  encoder.pretrained = ''
  # Stages that stay as they began, the stem with the first; 0: none, 4: all.
  encoder.freeze = 0

  config.optimizer = optimizer = ConfigDict()
  optimizer.learning_rate = 1.4e-3  # Adam's, at its peak
  optimizer.schedule = 'cosine'  # down to 0, or 'constant'
  optimizer.warmup_epochs = 0.0  # linear rise from 0
  optimizer.weight_decay = 0.0  # of convolution and dense kernels alone
  # Rates as multiples of the embedding layer's: of the objective's prototypes,
  optimizer.objective_rate = 1.0
  # and of the encoder's stem and stages.
  optimizer.encoder_rate = 1.0

  # Rows (first epoch, positive, negative) for objectives that mine triplets.
  config.curriculum = ()

  config.objective = ConfigDict()  # each objective's config names its own
  return config


def use_preset(config: ConfigDict, preset: str) -> ConfigDict:
  """Sets what a preset after the config file's name asks for.

  Args:
    config: from `get_config`.
    preset: 'synthetic' (drawn here, no download), 'planktonset9' (a folder of
      nine ISIIS-2 classes) or 'flowcamnet' (the published experiment's six
      seen and three unseen classes at 128 px).
  """
  if preset == 'planktonset9':
    config.citation = PLANKTONSET
    config.data.source = 'folder'
    config.data.unseen_classes = (
      'copepod_calanoid',
      'protist_noctiluca',
      'diatom_chain_tube',
    )
  elif preset == 'flowcamnet':
    config.citation = catalogue.SETS['flowcamnet'].citation
    config.data.source = 'tfds'
    config.data.name = 'flowcamnet'
    config.data.size = 128
    config.data.classes = FLOWCAMNET_SEEN + FLOWCAMNET_UNSEEN
    config.data.unseen_classes = FLOWCAMNET_UNSEEN
    config.encoder.width = 64
  elif preset != 'synthetic':
    raise InputError(
      f'preset {preset!r} is unknown; choose synthetic, planktonset9 or'
      ' flowcamnet'
    )
  return config


def as_published(config: ConfigDict) -> ConfigDict:
  """Sets what both objectives of the published experiment have in common.

  docs/student.md lists what differs still.

  Args:
    config: with the preset 'flowcamnet'.
  """
  for field, value in config.augment.items():  # it has no augmentation
    config.augment[field] = type(value)(0)
  config.batch.classes = config.batch.per_class = 0
  config.batch.sampling = 'images'
  config.optimizer.learning_rate = 1.4e-3
  config.optimizer.schedule = 'constant'
  config.encoder.centred = False  # its embedding is a linear layer's
  config.encoder.poses = 1
  config.validations_per_epoch = 5
  return config
