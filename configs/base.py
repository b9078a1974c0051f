"""Defines every field of a run and its meaning; other configs start here."""

from ml_collections import ConfigDict, config_dict

from plankton_jax.data.public import catalogue
from plankton_jax.errors import InputError

PLANKTONSET = (
  'PlanktonSet 1.0: Cowen, Sponaugle, Robinson, Luo and Guigand 2015,'
  ' NOAA NCEI accession 0127422, DOI 10.7289/v5d21vjd'
)
# The classes of FlowCAMNet in the published experiment.
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
  """Makes the fields that every objective shares."""
  config = ConfigDict()

  config.seed = 0  # draws split, weights, batches and augmentation
  config.epochs = 35  # passes over the training images
  config.validations_per_epoch = 5  # each may save the best checkpoint
  # Stop after so many validations without a new minimum of the loss; 0: never.
  config.early_stop_validations = 0
  # If the embedding collapses to a point or a line: 'warn' once, or 'stop'.
  config.on_collapse = 'warn'
  config.citation = ''  # source of the data, shown below its figures
  # Folder that keeps compiled programs between runs; '': none.
  config.compilation_cache_dir = '~/.cache/plankton_jax/compiled'

  config.data = data = ConfigDict()
  data.source = 'synthetic'  # 'synthetic', 'folder', 'ecotaxa' or 'tfds'
  # folder: the tree with one folder for each class, or an archive of it;
  # ecotaxa: the export, as an archive or a folder, or a list of images.
  data.path = ''
  data.name = ''  # tfds: name of the prepared data set
  data.data_dir = ''  # tfds: folder of prepared sets; '': TFDS's default
  # folder: a class is named by its folder's 'path' or the 'last' part of it;
  # 'auto': the path without top-level folders train, val and test, or years.
  data.class_level = 'auto'
  data.per_class = 300  # synthetic: number of images drawn for each class
  # ecotaxa: take objects in these states, of 'validated', 'predicted' and
  # 'dubious'.
  data.labelled_status = ('validated',)
  # ecotaxa: which of an object's images to take: the one with the 'lowest' or
  # 'highest' img_rank, or with a given number, else the lowest.
  data.image_rank = config_dict.FieldReference('lowest', field_type=object)
  # Names of the classes to use, seen and unseen; (): all.
  data.classes = ()
  data.size = 64  # side of the square images that the encoder sees, px
  data.resize = 'stretch'  # 'stretch' to a square, or 'pad'
  data.channels = 1  # 1: grey, 3: colour
  # 16-bit value that becomes white, such as 4095 for 12-bit cameras; 0: the
  # largest of the depth (8, 10, 12, 14 or 16 bits) that the images use.
  data.white = 0
  # Side of a pixel in the original images, micrometres; 0: taken from the table
  # of an export, if it has it.
  data.pixel_um = 0.0
  data.crop = (0, 0, 0, 0)  # pixels to cut off: top, right, bottom, left
  # Classes that training never sees: a tuple of names, or how many to draw.
  # Numbers in a tuple are names, as in (84963,); a number alone is a count.
  data.unseen_classes = config_dict.FieldReference(3, field_type=object)
  # Shares of each seen class: train, val, test.
  data.fractions = (0.75, 0.05, 0.20)
  # folder: whether top-level folders train, val and test are the split.
  data.own_split = False
  # ecotaxa: keep images of one 'sample' or 'acquisition' on the same side of
  # the split; '': split images independently.
  data.group_by = ''
  # Regular expression that finds a group, such as a sample, in an image's id by
  # its first capture group, or else its match. A group stays on one side of the
  # split; '': split images independently.
  data.group_regex = ''
  # Seen classes with too few images to split: 'gallery' embeds and searches
  # them without training, 'other' merges them, 'drop' leaves them out.
  data.rare = 'gallery'
  data.on_bad_image = 'skip'  # unreadable files: 'skip' or 'raise'
  data.cache_dir = '~/.cache/plankton_jax/data'  # records and decoded images

  config.batch = batch = ConfigDict()
  batch.size = 64  # images in a training step
  # P, classes in a batch, or all if there are fewer; 0: any images, whatever
  # their class.
  batch.classes = 0
  # K, images of each of the P classes, where P K must be batch.size; 0: the P
  # classes share the batch.
  batch.per_class = 0
  # Draw all 'images' with equal chance, classes by the 'sqrt' of their size, or
  # all classes with equal chance ('uniform').
  batch.sampling = 'images'
  # How often each image of a batch is in it, augmented each time by other
  # draws; a step takes so many times as long.
  batch.views = 1
  # How many images of a batch the encoder sees at a time, which bounds the
  # memory of a large batch; the loss is of the whole batch, the norms' and the
  # centring's statistics of each chunk. It divides batch.size; 0: all at once.
  batch.chunk = 0

  config.augment = augment = ConfigDict()  # a strength of 0 turns it off
  # Mirror left-right, top-bottom and about the diagonal, each for half of the
  # images.
  augment.flip = True
  augment.rotate = 180.0  # largest angle either way, degrees
  augment.scale = 0.1  # largest change of the size, as a share of it
  augment.translate = 0.05  # largest shift, as a share of the side
  augment.brightness = 0.0  # largest change, as a share of the full range
  augment.contrast = 0.1  # largest change, as a share of the contrast
  augment.noise = 0.0  # standard deviation, as a share of the full range

  config.encoder = encoder = ConfigDict()
  # 'resnet10', 'resnet18', 'resnet34' or 'resnet50'; timm's 'convnext_' and
  # 'convnextv2_' with 'atto', 'femto', 'pico', 'nano' or 'tiny'; timm's
  # 'vit_small_' and 'vit_base_' with 'patch16_224', 'patch14_dinov2',
  # 'patch14_reg4_dinov2' or 'patch16_dinov3', for which data.size is a multiple
  # of the patch's side.
  encoder.name = 'resnet18'
  # Features of a ResNet's first stage; 64 in the paper.
  encoder.width = 32
  # Share of the image's side that a ResNet's stem keeps: 'full', 'half',
  # 'quarter'; 'imagenet': a quarter, by the paper's 7x7 convolution and
  # max-pooling.
  encoder.stem = 'quarter'
  encoder.embedding_dim = 128  # length of the embedding
  encoder.dtype = 'float32'  # type to compute in: 'float32' or 'bfloat16'
  # Whether to centre and scale embeddings over the batch before they get unit
  # length, so that they do not end in a narrow cone; False: a linear layer.
  encoder.centred = True
  # Views of an image that its embedding averages outside of training: 1 takes
  # the image, 8 its mirror images and quarter turns, at eight times the cost.
  encoder.poses = 1
  # Weights to start from: 'plankton', the bundled encoder, or the folder of an
  # exported one, for its own name, width, stem and data.size; or a file (.pth,
  # .safetensors) of torchvision or timm for a ResNet-18, 34 or 50 with stem
  # 'imagenet' and width 64, or of any other network above; docs/pretrained.md
  # lists them. '': random weights.
  encoder.pretrained = ''
  # How images are normalised: 'auto' as the published weights of
  # encoder.pretrained expect, or else off their own background; 'published' as
  # such weights expect in any case, for an exported ConvNeXt or transformer
  # that once began from them.
  encoder.normalise = 'auto'
  # How many stages stay untrained, the stem with the first; 0: none. Residual
  # networks have 4, vision transformers 12, their blocks.
  encoder.freeze = 0
  # LoRA: the rank of the matrices that are trained to adapt each dense layer in
  # the blocks of a ConvNeXt or transformer of which all stages are frozen; 0:
  # no such matrices.
  encoder.lora_rank = 0
  # The product of these matrices is added lora_alpha / lora_rank times.
  encoder.lora_alpha = 16.0
  # Whether the encoder sees the original size beside the image: sqrt(h w), in
  # micrometres if the pixel of every training image is known, else in pixels;
  # and the ratio of the sides. It embeds images of unknown size too.
  encoder.size = False
  # How far embeddings are whitened once training has ended, by how the training
  # images of a class differ: 1 makes them differ alike in every direction, less
  # leaves more of the space as it is, 0 all. Seen classes are a little better
  # apart with less, classes that training never saw with more.
  encoder.whitening = 0.5
  # Names of further measures that it sees, such as an export's 'object_area'.
  encoder.measures = ()

  config.optimizer = optimizer = ConfigDict()
  optimizer.learning_rate = 1.4e-3  # of Adam, at the peak of the schedule
  optimizer.schedule = 'cosine'  # 'cosine', which falls to 0, or 'constant'
  optimizer.warmup_epochs = 0.0  # length of the linear rise from 0
  optimizer.weight_decay = 0.0  # of convolution and dense kernels only
  # Learning rate of the objective's prototypes, as a multiple of
  # learning_rate.
  optimizer.objective_rate = 1.0
  # Learning rate of the encoder's stem and stages, as a multiple of
  # learning_rate.
  optimizer.encoder_rate = 1.0
  # Learning rate of each stage, as a share of the next one's; the last one has
  # encoder_rate.
  optimizer.layer_decay = 1.0

  # Rows (first epoch, positive, negative) for objectives that mine triplets:
  # positives are 'easy' or 'hard', negatives 'semihard' or 'hard'.
  config.curriculum = ()

  config.objective = ConfigDict()  # fields depend on its name
  return config


def use_prototypes(config: ConfigDict, objective: str) -> ConfigDict:
  """Names a cross-entropy on class prototypes, and adds the fields of all."""
  config.objective.name = objective  # one of plankton_jax/objectives/
  # Weight of an image in the loss by the size of its class: 'none', 'inverse',
  # 'sqrt_inverse' or 'effective' (by the effective number of images).
  config.objective.class_weights = 'none'
  # Share of the prototypes in a step's loss, drawn at random beside those of
  # the batch's classes: with very many classes less than 1 saves time and
  # memory. Validation takes all.
  config.objective.sample_prototypes = 1.0
  return config


def use_preset(config: ConfigDict, preset: str) -> ConfigDict:
  """Sets the fields of the preset given after the config file's name.

  Args:
    config: from `get_config`.
    preset: 'synthetic' (drawn, no download), 'planktonset9' (a folder of
      nine ISIIS-2 classes) or 'flowcamnet' (the published experiment's six
      seen and three unseen classes at 128 px).

  Raises:
    InputError: the preset is unknown.
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


# The network of the bundled encoder `plankton`, and its size of images.
PLANKTON_NETWORK = {
  'data.size': 64,
  'data.channels': 1,
  'encoder.name': 'resnet18',
  'encoder.width': 32,
  'encoder.stem': 'quarter',
  'encoder.embedding_dim': 256,
  'encoder.size': True,
}


def begin_from_plankton(config: ConfigDict) -> ConfigDict:
  """Sets the fields of a short run that begins from the bundled encoder.

  `data.channels=3` begins from it too, where colour tells classes apart.
  """
  config.update_from_flattened_dict(PLANKTON_NETWORK)
  config.encoder.pretrained = 'plankton'
  # After such a start, images of a class differ in few directions.
  config.encoder.whitening = 0.75
  config.optimizer.learning_rate = 1e-3
  config.batch.views = 2
  config.epochs = 10
  return config


def as_published(config: ConfigDict) -> ConfigDict:
  """Sets the fields that both objectives of the published experiment share.

  docs/student.md lists the remaining differences.

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
  config.encoder.whitening = 0.0
  config.validations_per_epoch = 5
  return config
