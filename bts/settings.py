"""What a preset may set: dataclasses whose every field is a flag (`--group.field`), documented where it
stands.

Axes: B batch, C channel (modality), D slices (z), H rows (front to back), W columns (right to left).
"""

from dataclasses import dataclass, fields
from typing import Literal

from bts.modalities import MODALITIES
from bts.preset_checks import LARGEST, problem_of

NETWORKS = Literal[
    "unet", "residual_unet", "isensee", "attention_unet", "fcn", "segnet", "vnet", "encoder_unet"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """How the network's levels are built; every network has widths, norm, activation and dropout."""

    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Filters a level, finest first; each level below halves every side. encoder_unet: of the decoder."""
    stem: int = 1
    """Voxels along each axis that are folded into channels before the first level and unfolded by the head:
    with 2, a step takes a quarter of the time in 2D, an eighth in 3D. U-Net alone."""
    norm: Literal["none", "batch", "instance"] = "none"
    """Normalisation, of the training's statistics (batch) or of each image's own (instance)."""
    momentum: float = 0.1
    """Share of each batch in the running statistics of batch normalisation."""
    epsilon: float = 1e-5
    """Added to the variance that batch normalisation divides by."""
    activation: Literal["relu", "leaky_relu", "prelu"] = "relu"
    """After each convolution (and its normalisation)."""
    dropout: tuple[float, ...] = ()
    """Share of values dropped a level, finest first, on the way down and up; empty: none. isensee drops whole
    channels, on the way down alone."""
    place: Literal["convolution", "level"] = "convolution"
    """Where normalisation and dropout stand: at each level's convolutions, or once after each pooling, and
    dropout once more before a level's convolutions on the way up. Of unet, attention_unet and fcn."""
    down: Literal["pool", "stride"] = "pool"
    """Max-pooling, or a first convolution of stride 2, in unet, attention_unet and fcn. residual_unet,
    isensee and vnet always stride, segnet always pools."""
    up: Literal[2, 3] = 2
    """Kernel of the transposed convolutions (stride 2) of unet, attention_unet and encoder_unet."""
    first: Literal[2, 3] = 3
    """Kernel of residual_unet's first convolution."""
    initialisation: Literal["he", "glorot"] = "he"
    """Fresh weights. he: He's scale where no normalisation takes it out again, PyTorch's own elsewhere; PReLU
    slopes 0.25. glorot: what Keras does by default, Glorot's uniform, biases 0, PReLU slopes 0."""
    hypercolumns: bool = False
    """The head sees every decoder level, enlarged, not the finest alone (Hariharan et al. 2015). U-Net's."""
    encoder: str = ""
    """timm name of the encoder of `encoder_unet`, for example resnet34."""
    weights: str = ""
    """Path or URI of that encoder's pretrained .safetensors; empty: random weights."""

    def __post_init__(self):
        if not self.widths or min(self.widths) < 1 or self.stem < 1:
            raise ValueError("layers.widths and layers.stem must be positive")
        if self.dropout and len(self.dropout) != len(self.widths):
            raise ValueError("layers.dropout and layers.widths do not go together: give one share a level")
        if any(not 0 <= share < 1 for share in self.dropout):
            raise ValueError("layers.dropout are shares of at least 0 and below 1")
        if not (0 < self.epsilon < 1 and 0 <= self.momentum <= 1):
            raise ValueError("layers.epsilon must be positive and below 1, layers.momentum from 0 to 1")
        if self.place == "level" and self.down == "stride":
            raise ValueError("layers.place level and layers.down stride do not go together: no pooling")

    @property
    def multiple(self) -> int:
        """Every side of the input must be a multiple of this many pixels."""
        return self.stem * 2 ** (len(self.widths) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """From the pixels of the shards to the network's input."""

    kind: Literal["brain_zscore", "global_zscore", "slice_zscore", "slice_minmax", "fixed"] = "brain_zscore"
    """brain_zscore: mean and standard deviation of the volume's non-zero voxels, background stays 0.
    global_zscore: one mean and standard deviation a modality over the training set, background included.
    slice_zscore: clip to the slice's 1st and 99th percentile, mean and standard deviation of its non-zero
    pixels. slice_minmax: each slice from 0 to 1. fixed: divided by `scale`, clipped to 0…1."""
    scale: float = 12728.0
    """Divisor of `fixed`: the largest value of the figshare set."""
    percentiles: Literal["brain", "frame"] = "brain"
    """What slice_zscore takes its percentiles of: the slice's non-zero pixels, or the preset's whole `frame`
    with its background."""
    background: float | None = None
    """Value of background pixels after all; None: 0, and what the formula gives for 0 in global_zscore."""
    mean: tuple[float, ...] = ()
    """Of each modality, for global_zscore; empty: measured on the training cases, and kept in the model."""
    std: tuple[float, ...] = ()
    """Standard deviation of each modality, likewise."""

    def __post_init__(self):
        if not (self.scale > 0 and min(self.std, default=1) > 0):
            raise ValueError("normalisation.scale and normalisation.std must be positive")

    @property
    def keeps_zero(self) -> bool:
        """Background is 0 before and after, as what a convolution finds beyond the edge."""
        return self.kind == "brain_zscore" and not self.background


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What an epoch draws from the shards."""

    kind: Literal["slices", "patches", "stacks", "volumes"] = "slices"
    """slices: axial slices, cut at random or padded to `size`. patches: `repeats` cuts of a slice, each
    centred on a random voxel of the brain (FLAIR not 0). stacks: slices with their neighbours as channels
    (2.5D). volumes: `repeats` 3D cuts of a case."""
    empty_slices: float = 0.33
    """Share of the slices without tumour drawn in an epoch, at random; slices with tumour are all drawn."""
    repeats: int = 1
    """Patches a slice, or volumes a case, drawn in an epoch."""
    tumour_centred: float = 0.0
    """Share of the volumes that are centred on a random tumour voxel; the others lie anywhere."""
    neighbours: int = 0
    """Slices above and as many below that join a slice of `stacks`."""
    least_tumour: float = 0.0
    """Cases with a smaller share of tumour in the brain are left out of training."""

    def __post_init__(self):
        if not all(0 <= v <= 1 for v in (self.empty_slices, self.tumour_centred, self.least_tumour)):
            raise ValueError("sampling.empty_slices, tumour_centred and least_tumour are shares from 0 to 1")
        if self.repeats < 1:
            raise ValueError("sampling.repeats must be at least 1")
        if (self.kind == "stacks") != (self.neighbours > 0):
            raise ValueError(
                f"sampling.neighbours {self.neighbours} and sampling.kind {self.kind} do not go together: "
                "stacks have neighbours, the others none"
            )
        if self.repeats > 1 and self.kind in ("slices", "stacks"):
            raise ValueError(f"sampling.repeats and sampling.kind {self.kind} do not go together")
        if self.tumour_centred and self.kind != "volumes":
            raise ValueError(f"sampling.tumour_centred and sampling.kind {self.kind} do not go together")


CHANCES = ("flip", "flip_rows", "flip_slices", "blur", "drop", "fade", "dim")
"""Settings of Augmentation that are probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Random changes to each training image, made on the device after normalisation. 0: not made."""

    flip: float = 0.5
    """Probability of a left-right mirror, the only symmetry that a brain has."""
    flip_rows: float = 0.0
    """Probability of a front-back mirror."""
    flip_slices: float = 0.0
    """Probability of a head-foot mirror; volumes alone."""
    rotate: float = 0.0
    """Turned in-plane by up to ± this many degrees."""
    zoom: float = 0.0
    """Enlarged in-plane by 1 ± up to this much."""
    elastic: float = 0.0
    """Bent in-plane by a smooth random field of up to ± this many pixels."""
    scale: float = 0.0
    """Each modality is multiplied by 1 ± up to this much (contrast)."""
    shift: float = 0.0
    """Each modality is shifted by up to ± this much (brightness), in units of the normalised image."""
    gamma: float = 0.0
    """Values between a modality's extremes are raised to a power of 1 ± up to this much."""
    bias: float = 0.0
    """Multiplied by a smooth field of 1 ± up to this much, as coils do."""
    blur: float = 0.0
    """Probability that a modality is shrunk to half its resolution and enlarged again."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise inside the brain, in units of the normalised image."""
    drop: float = 0.0
    """Probability that a modality is missing, all 0; one is always left. For `segment --allow-missing`."""
    fade: float = 0.0
    """Probability that a tumour enhances less, in T1ce, or not at all: then its label 3 becomes 1."""
    dim: float = 0.0
    """Probability, for T2 and for FLAIR, that a tumour is less bright."""

    def __post_init__(self):
        if not all(0 <= getattr(self, name) <= 1 for name in CHANCES):
            raise ValueError(f"augmentation.{', '.join(CHANCES)} are probabilities from 0 to 1")
        if not all(0 <= getattr(self, name) < 1 for name in ("zoom", "scale", "gamma", "bias")):
            raise ValueError("augmentation.zoom, scale, gamma and bias are shares of at least 0 and below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Weighted sum of terms, each a mean over the output channels; a weight of 0 leaves a term out."""

    dice: float = 0.0
    """Soft Dice over the whole batch."""
    generalised_dice: float = 0.0
    """Generalised Dice: channels weighed by 1 over their squared size (Sudre et al. 2017)."""
    bce: float = 0.0
    """Binary cross-entropy; output sigmoid."""
    ce: float = 0.0
    """Categorical cross-entropy; output softmax."""
    focal: float = 0.0
    """Focal loss (Lin et al. 2017), γ 2; binary or categorical by the output."""
    lovasz: float = 0.0
    """Lovász hinge or Lovász-softmax by the output (Berman et al. 2018)."""
    class_weights: tuple[float, ...] = ()
    """Weight of each output channel in `bce`, `ce` and `focal`, background first under softmax; empty:
    all 1."""
    smooth: float = 1.0
    """Added above and below the fraction of `dice`."""

    def __post_init__(self):
        weights = [getattr(self, f.name) for f in fields(self) if f.name not in ("class_weights", "smooth")]
        if min(weights) < 0 or not any(weights):
            raise ValueError("loss weights (loss.dice, loss.bce, …) must not be negative, nor all zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimiser:
    """Steps and their size. Progress is the share of the budget that is spent."""

    kind: Literal["adamw", "adam", "sgd", "muon"] = "adamw"
    """muon: bts.training.muon, for few steps."""
    lr: float = 3e-3
    """Learning rate at its highest."""
    momentum: float = 0.9
    """Of SGD and Muon, or β1 of Adam."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW and Muon as a factor of the learning rate; L2 of the others."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly from zero."""
    schedule: Literal["constant", "poly", "cosine", "plateau", "epoch"] = "constant"
    """poly: × (1 - progress)^power. cosine: half a cosine over the budget. plateau: × factor after `patience`
    validations without gain. epoch: × factor after each epoch."""
    power: float = 0.9
    """Exponent of poly (nnU-Net's)."""
    factor: float = 0.5
    """Of plateau and epoch."""
    patience: int = 5
    """Of plateau: validations without gain before the learning rate falls."""
    cooldown: int = 0
    """Of plateau: validations after a fall that do not count."""
    floor: float = 0.0
    """Lowest learning rate."""
    decay: float = 0.0
    """Learning rate divided by 1 + decay × steps, as Keras' SGD does."""
    decay_growth: float = 1.0
    """`decay` is multiplied by this after each epoch."""
    clip: float = 0.0
    """Largest norm of the gradient; longer ones are scaled down. 0: none."""
    ema: float = 0.0
    """Decay a step of the running average of the weights, which is validated and saved; 0: no average."""

    def __post_init__(self):
        if not (self.lr > 0 and 0 <= self.ema < 1 and 0 <= self.momentum < 1 and 0 < self.factor <= 1):
            raise ValueError(
                "optimiser.lr must be positive, optimiser.ema and optimiser.momentum in [0, 1), "
                "optimiser.factor in (0, 1]"
            )
        for one in fields(self):
            if one.type in (int, float) and not getattr(self, one.name) >= 0:
                raise ValueError(f"optimiser.{one.name} must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long to train: the run ends at whichever bound is met first."""

    epochs: int | None = None
    """Passes over the drawn slices; None: no bound."""
    minutes: float | None = None
    """Wall-clock minutes of training, validation included, over all resumes together; None: no bound."""
    patience: int | None = None
    """Validations without gain before training stops early; None: never."""
    validate_every: int = 1
    """Epochs between validations; always after the last."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints within an epoch; there is one after each epoch anyway."""

    def __post_init__(self):
        if self.epochs is None and self.minutes is None:
            raise ValueError("budget.epochs and budget.minutes are both None: no end; set one")
        if (self.epochs is not None and self.epochs < 1) or (self.minutes is not None and self.minutes <= 0):
            raise ValueError("budget.epochs and budget.minutes must be positive where they are set")
        if self.checkpoint_minutes <= 0:
            raise ValueError("budget.checkpoint_minutes must be positive")
        if self.validate_every < 1 or (self.patience is not None and self.patience < 1):
            raise ValueError("budget.validate_every and budget.patience must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """From probabilities to labels."""

    batch: int = 16
    """Slices, or volumes, predicted at once."""
    threshold: float = 0.5
    """Probability above which a pixel belongs to a target; output sigmoid."""
    overlap: float = 0.5
    """Share by which neighbouring windows of a 3D network overlap, blended by a Gaussian."""
    window: tuple[int, int, int] | None = None
    """Largest window of a 3D network: slices, height and width; a smaller brain is predicted in one piece.
    None: windows of the training size."""
    own_statistics: float = 0.0
    """Share of a case's own statistics in batch normalisation, against those of the training cases: scans of
    another scanner are normed as they are. 3D networks; 0: the training's alone, and fastest."""
    min_et_ml: float = 0.0
    """Enhancing tumour of fewer millilitres in a whole case becomes necrosis: specks in a case that has none
    would score Dice 0 instead of 1 (BraTS's rule for an empty ground truth)."""
    min_et_share: float = 0.0
    """Enhancing tumour of a smaller share of the tumour core becomes necrosis too: at the rim of a large core
    that does not enhance, a little is often found."""
    min_tumour_ml: float = 0.0
    """Pieces of tumour of fewer millilitres become background, but never the largest one: most are false, and
    each counts as much as the tumour where scores are by lesion. 0 where small ones matter (metastases)."""
    min_core_ml: float = 0.0
    """Pieces of tumour core of fewer millilitres become oedema, but never the largest one."""
    min_et_piece_ml: float = 0.0
    """Pieces of enhancing tumour of fewer millilitres become necrosis, but never the largest one."""
    fill_core: bool = False
    """Whatever the tumour core encloses within an axial slice becomes necrosis."""

    def __post_init__(self):
        if not (0 <= self.overlap < 1 and 1 <= self.batch <= LARGEST):
            raise ValueError(f"inference.overlap must be in [0, 1), inference.batch from 1 to {LARGEST}")
        if not 0 <= self.threshold < 1:
            raise ValueError("inference.threshold is a probability of at least 0 and below 1")
        if not 0 <= self.own_statistics <= 1:
            raise ValueError("inference.own_statistics is a share from 0 to 1")
        least = (self.min_et_ml, self.min_tumour_ml, self.min_core_ml, self.min_et_piece_ml)
        if not 0 <= self.min_et_share < 1 or min(least) < 0:
            raise ValueError("inference.min_et_share must be in [0, 1), the least millilitres not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One segmentation system, whole."""

    name: str
    """Name of the model; its default is the preset's."""
    summary: str = ""
    """One line for tables and --help."""
    modalities: tuple[str, ...] = MODALITIES
    """Input channels, in the network's order."""
    targets: Literal["regions", "labels", "tumour", "tumour_types"] = "regions"
    """regions: WT, TC, ET, overlapping. labels: NCR, ED, ET. tumour: any, of figshare. tumour_types:
    meningioma, glioma, pituitary, of figshare."""
    output: Literal["sigmoid", "softmax"] = "sigmoid"
    """Each target by itself, or exclusive targets and background."""
    resize: tuple[int, int] | None = None
    """Height and width to which whole slices are resized first; None: as they are (1 mm)."""
    size: tuple[int, ...] = (160, 128)
    """Training input in pixels: height and width, or slices, height and width for sampling.kind volumes."""
    frame: tuple[int, int] | None = None
    """Height and width in which whole slices are segmented, and trained on where `size` is as large; the
    brain lies in it where it lies in the source. None: slices are cut or padded anywhere in training, and
    segmented with as little around the brain as pooling needs."""
    batch: int = 16
    """Samples in a batch; each worker contributes one batch to a step."""
    seed: int = 0
    """Seed of the weights, the augmentation, the order of slices and the split."""
    split: Literal["by_patient", "leaking_by_slice"] = "by_patient"
    """leaking_by_slice puts slices of one patient on both sides, as the figshare original did: its
    figures are too good."""
    network: NETWORKS = "unet"
    """Architecture, 2D or 3D as `size` is."""
    pictures: tuple[Literal["strip", "triptych", "overlay", "turning"], ...] = ("triptych",)
    """Drawn of held-out patients when the training ends. strip: inputs, ground truth and prediction of each
    target. triptych: image, ground truth, prediction. overlay: both on the image. turning: a 3D GIF."""
    layers: Layers = Layers()
    normalisation: Normalisation = Normalisation()
    sampling: Sampling = Sampling()
    augmentation: Augmentation = Augmentation()
    loss: Loss
    optimiser: Optimiser = Optimiser()
    budget: Budget
    inference: Inference = Inference()

    def __post_init__(self):
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ValueError("modalities must name each input once, at least one")
        if not 1 <= self.batch <= LARGEST:
            raise ValueError(f"batch must be at least 1 and at most {LARGEST}")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed {self.seed}: give at least 0 and less than 2^63")
        if problem := problem_of(self):
            raise ValueError(problem)

    @property
    def volumetric(self) -> bool:
        """The network sees volumes (D, H, W), not slices (H, W)."""
        return self.sampling.kind == "volumes"

    @property
    def channels(self) -> int:
        """Input channels of the network."""
        return len(self.modalities) * (2 * self.sampling.neighbours + 1)
