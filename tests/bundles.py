"""MONAI bundles for tests, laid out and configured as those of MONAI's model zoo are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

CHANNELS = ("t1c", "t1n", "t2w", "t2f")  # file names of BraTS 2023, in the order of the zoo's BraTS bundle
PAINT = "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))"
NETWORK = {
    "_target_": "SegResNet",
    "blocks_down": [1, 1, 1],
    "blocks_up": [1, 1],
    "init_filters": 8,
    "in_channels": 4,
    "out_channels": 3,
    "dropout_prob": 0.2,
}


def step(name: str, keys: str = "pred", **arguments: object) -> dict:
    """A transform as a config names it."""
    return {"_target_": name, "keys": keys, **arguments}


PREPARE = [step("LoadImaged", "image"), step("NormalizeIntensityd", "image", nonzero=True, channel_wise=True)]
INVERT = step(
    "Invertd", transform="@preprocessing", orig_keys="image", meta_keys="pred_meta_dict",
    nearest_interp=False, to_tensor=True,
)  # fmt: skip
FINISH = [
    step("Activationsd", sigmoid=True),
    INVERT,
    step("AsDiscreted", threshold=0.5),
    step("Lambdad", func=PAINT),
    step(
        "SaveImaged", meta_keys="pred_meta_dict", output_dir="@output_dir", output_postfix="seg",
        output_dtype="uint8", resample=False, squeeze_end_dims=True,
    ),
]  # fmt: skip


def inference(**changes: object) -> dict:
    """configs/inference.json, with some of its ids changed."""
    config = {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "ckpt_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
        "data_list_file_path": "$@bundle_root + '/configs/datalist.json'",
        "dataset_dir": "/data",
        "test_datalist": "$monai.data.load_decathlon_datalist(@data_list_file_path, "
        "data_list_key='testing', base_dir=@dataset_dir)",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "amp": True,
        "network_def": NETWORK,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": PREPARE},
        "dataset": {"_target_": "Dataset", "data": "@test_datalist", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": True,
            "num_workers": 0,
        },
        "inferer": {
            "_target_": "SlidingWindowInferer", "roi_size": [32, 32, 32], "sw_batch_size": 1, "overlap": 0.5,
        },
        "postprocessing": {"_target_": "Compose", "transforms": FINISH},
        "handlers": [
            {
                "_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
            },
            {"_target_": "StatsHandler", "iteration_log": False},
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@dataloader",
            "network": "@network", "inferer": "@inferer", "postprocessing": "@postprocessing",
            "val_handlers": "@handlers", "amp": True,
        },
        "initialize": ["$setattr(torch.backends.cudnn, 'benchmark', True)"],
        "run": ["$@evaluator.run()"],
    }  # fmt: skip
    return config | changes


def metadata(inputs=("T1c", "T1", "T2", "FLAIR"), outputs=("Tumor core", "Whole tumor", "Enhancing tumor")):
    """configs/metadata.json, as far as anybody reads it."""
    sides = {"inputs": ("image", inputs), "outputs": ("pred", outputs)}
    named = {
        side: {item: {"channel_def": {str(n): name for n, name in enumerate(names)}}}
        for side, (item, names) in sides.items()
    }
    return {"version": "0.5.3", "network_data_format": named}


def write_bundle(folder: Path, weights: object = None, meta: dict | None = None, **changes: object) -> Path:
    """The folder of a bundle. weights: what model.pt holds; None: of its own network, untrained."""
    config = inference(**changes)
    if weights is None:
        weights = untrained(config["network_def"]).state_dict()
    files = {"inference": config, "metadata": metadata() if meta is None else meta}
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, told in files.items():
        (folder / "configs" / f"{name}.json").write_text(json.dumps(told, indent=4))
    torch.save(weights, folder / "models" / "model.pt")
    return folder


def untrained(definition: dict) -> torch.nn.Module:
    """A network of MONAI by its definition, whose outputs are spread about 0."""
    from monai.networks import nets

    torch.manual_seed(3)
    arguments = {key: value for key, value in definition.items() if key != "_target_"}
    network = getattr(nets, definition["_target_"].rpartition(".")[2])(**arguments)
    with torch.no_grad():
        last = [module for module in network.modules() if isinstance(module, torch.nn.Conv3d)][-1]
        last.weight.mul_(4)
        last.bias.copy_(torch.linspace(-1, 1, len(last.bias)))
    return network.eval()


def run_monai(bundle: Path, cases: Path, names: list[str]) -> dict[str, Path]:
    """`monai.bundle run` over cases of BraTS 2023 → the labelmap of each, on the CPU in full precision."""
    images = [[f"{name}/{name}-{channel}.nii.gz" for channel in CHANNELS] for name in names]
    listed = {"testing": [{"image": one} for one in images]}
    (bundle / "configs" / "datalist.json").write_text(json.dumps(listed))
    command = [
        sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json",
        "--dataset_dir", str(cases), "--evaluator::amp", "False",
    ]  # fmt: skip
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=bundle, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: bundle / "eval" / f"{name}-t1c" / f"{name}-t1c_seg.nii.gz" for name in names}
