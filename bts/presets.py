"""Every system as one value of bts.settings.Preset: what goes in, which network, how it trains and segments.

A preset is data: it travels as JSON inside each model file, and the command line can override each field.
`unet2d`, `figshare2d`, `figshare3d`, `unet3d` and `resunet2d` reproduce published systems, with what defines
them; docs/results/systems.md says what was fixed. `fast`, `fast3d` and `best` are ours.
"""

from bts.settings import (
    Augmentation,
    Budget,
    Inference,
    Layers,
    Loss,
    Normalisation,
    Optimiser,
    Preset,
    Sampling,
)

FAST = Preset(
    name="fast",
    summary="2.5D U-Net, a slice and its neighbours, trained in ten minutes on two CPU cores",
    batch=8,
    layers=Layers(stem=2, norm="batch", activation="leaky_relu", down="stride"),
    sampling=Sampling(kind="stacks", neighbours=1),
    augmentation=Augmentation(
        rotate=15, zoom=0.15, scale=0.25, shift=0.2, gamma=0.3, bias=0.2, blur=0.1, noise=0.05
    ),
    loss=Loss(dice=1, bce=1),
    optimiser=Optimiser(
        kind="muon", momentum=0.95, weight_decay=1e-2, warmup=50, schedule="poly", clip=1, ema=0.995
    ),
    budget=Budget(minutes=10, validate_every=10),
    inference=Inference(
        min_et_ml=0.05,
        min_et_share=0.03,
        min_tumour_ml=1,
        min_core_ml=0.5,
        min_et_piece_ml=0.25,
        fill_core=True,
    ),
)

FAST3D = Preset(
    name="fast3d",
    summary="3D U-Net at 2 mm with voxels folded into channels: a whole brain at once, seconds on a CPU",
    size=(128, 160, 128),
    batch=2,
    layers=Layers(
        widths=(64, 96, 96, 96), stem=2, norm="instance", activation="leaky_relu", down="stride"
    ),
    sampling=Sampling(kind="volumes", tumour_centred=0.5),
    augmentation=Augmentation(
        rotate=30, zoom=0.25, scale=0.25, shift=0.2, gamma=0.3, bias=0.2, blur=0.1, noise=0.05, drop=0.1
    ),
    loss=Loss(dice=1, bce=1),
    optimiser=Optimiser(
        kind="muon", momentum=0.95, weight_decay=1e-2, warmup=50, schedule="poly", clip=1, ema=0.995
    ),
    budget=Budget(epochs=150, validate_every=25),
    inference=Inference(
        batch=1, window=(192, 224, 192), min_et_ml=0.05, min_et_share=0.03,
        min_tumour_ml=1, min_core_ml=0.5, min_et_piece_ml=0.25, fill_core=True,
    ),
)  # fmt: skip

BEST = Preset(
    name="best",
    summary="3D U-Net on four modalities with everything that pays, for a GPU and a night",
    size=(128, 128, 128),
    batch=2,
    layers=Layers(
        widths=(32, 64, 128, 256, 320), norm="instance", activation="leaky_relu", down="stride"
    ),
    sampling=Sampling(kind="volumes", tumour_centred=0.5, repeats=2),
    augmentation=Augmentation(
        flip_rows=0.5, flip_slices=0.5, rotate=30, zoom=0.2, elastic=4, scale=0.25, shift=0.2, gamma=0.3,
        bias=0.2, blur=0.1, noise=0.1,
    ),
    loss=Loss(dice=1, bce=1),
    optimiser=Optimiser(lr=1e-3, weight_decay=1e-2, warmup=200, schedule="poly", clip=1, ema=0.999),
    budget=Budget(epochs=300, validate_every=25),
    inference=Inference(batch=1, min_et_ml=0.2),
)  # fmt: skip

UNET2D = Preset(
    name="unet2d",
    summary="2D U-Net on four modalities, whole 240×240 slices, BCE (Ronneberger et al. 2015)",
    modalities=("flair", "t1", "t1ce", "t2"),
    targets="labels",
    pictures=("strip",),
    size=(240, 240),
    frame=(240, 240),
    batch=10,
    layers=Layers(widths=(64, 128, 256, 512, 1024), up=3),
    normalisation=Normalisation(kind="global_zscore"),
    sampling=Sampling(empty_slices=1),
    augmentation=Augmentation(flip=0),
    loss=Loss(bce=1),
    optimiser=Optimiser(kind="adam", lr=1e-4, schedule="plateau", patience=5, cooldown=1, floor=1e-6),
    budget=Budget(epochs=100, patience=8),
    inference=Inference(batch=10),
)

FIGSHARE2D = Preset(
    name="figshare2d",
    summary="2D U-Net on the figshare set's T1ce slices, BCE + Dice, any tumour against none",
    modalities=("t1ce",),
    targets="tumour",
    pictures=("overlay",),
    resize=(128, 128),
    size=(128, 128),
    batch=32,
    layers=Layers(
        widths=(64, 128, 256, 512, 512), norm="batch", momentum=0.2, epsilon=1e-3, dropout=(0.1,) * 5,
        place="level", up=3,
    ),
    normalisation=Normalisation(kind="fixed"),
    sampling=Sampling(empty_slices=1),
    loss=Loss(bce=1, dice=1),
    optimiser=Optimiser(kind="adam", lr=1e-3, schedule="plateau", factor=0.1, patience=4, floor=1e-4),
    budget=Budget(epochs=60, patience=10),
    inference=Inference(batch=32),
)  # fmt: skip

FIGSHARE3D = Preset(
    name="figshare3d",
    summary="3D U-Net of Isensee et al. 2018 on the figshare set's stacks, tumour types, Dice",
    modalities=("t1ce",),
    targets="tumour_types",
    pictures=("overlay", "turning"),
    resize=(128, 128),
    size=(16, 128, 128),
    batch=1,
    network="isensee",
    layers=Layers(widths=(16, 32, 64, 128, 256), norm="instance", activation="leaky_relu", dropout=(0.3,) * 5,
                  down="stride"),
    sampling=Sampling(kind="volumes"),
    loss=Loss(dice=1, smooth=1e-5),
    optimiser=Optimiser(kind="adam", lr=5e-4, schedule="plateau", patience=10),
    budget=Budget(epochs=500, patience=50),
    inference=Inference(batch=1),
)  # fmt: skip

UNET3D = Preset(
    name="unet3d",
    summary="3D U-Net on FLAIR, T1ce and T2 in 128³ crops, Dice + focal (BraTS 2021)",
    modalities=("flair", "t1ce", "t2"),
    targets="labels",
    output="softmax",
    size=(128, 128, 128),
    batch=1,
    layers=Layers(widths=(16, 32, 64, 128, 256), dropout=(0.1, 0.1, 0.2, 0.2, 0.3)),
    normalisation=Normalisation(kind="slice_minmax"),
    sampling=Sampling(kind="volumes", tumour_centred=1, least_tumour=0.01),
    augmentation=Augmentation(flip=0),
    # Dice weighs each of the four classes 0.25; focal has α 0.25 and is a mean over the classes too.
    loss=Loss(dice=0.25, focal=0.25 / 4, smooth=1e-5),
    optimiser=Optimiser(kind="adam", lr=1e-4),
    budget=Budget(epochs=20),
    inference=Inference(batch=1),
)

RESUNET2D = Preset(
    name="resunet2d",
    summary="residual 2D U-Net on random 128×128 patches, generalised Dice + weighted CE (Kermi et al. 2018)",
    modalities=("flair", "t1", "t1ce", "t2"),
    targets="labels",
    output="softmax",
    size=(128, 128),
    frame=(240, 240),
    batch=4,
    network="residual_unet",
    layers=Layers(
        widths=(64, 128, 256, 512), norm="batch", momentum=0.01, epsilon=1e-3, activation="prelu",
        down="stride", first=2, initialisation="glorot",
    ),
    normalisation=Normalisation(kind="slice_zscore", percentiles="frame", background=-9),
    sampling=Sampling(kind="patches", repeats=3, empty_slices=1),
    augmentation=Augmentation(noise=0.01),
    loss=Loss(generalised_dice=1, ce=1, class_weights=(1, 5, 2, 4)),
    # The original sets 0.08 and 5e-6, and changes both before the first epoch already.
    optimiser=Optimiser(kind="sgd", lr=0.008, decay=5e-5, decay_growth=10, schedule="epoch", factor=0.1),
    budget=Budget(epochs=5),
)  # fmt: skip

PRESETS = {p.name: p for p in (FAST, FAST3D, BEST, UNET2D, FIGSHARE2D, FIGSHARE3D, UNET3D, RESUNET2D)}
