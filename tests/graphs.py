"""ONNX graphs for tests: a small network, exported, beside the description that jobs.adopt takes."""

from pathlib import Path

import torch


class Small(torch.nn.Module):
    """Two convolutions and a norm, as segmentation networks have them."""

    def __init__(self, outputs: int = 3):
        super().__init__()
        torch.manual_seed(4)
        self.first, self.last = torch.nn.Conv3d(4, 8, 3, padding=1), torch.nn.Conv3d(8, outputs, 3, padding=1)
        self.norm = torch.nn.InstanceNorm3d(8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 3 * self.last(torch.relu(self.norm(self.first(images))))


def exported(network: torch.nn.Module, *size: int) -> bytes:
    """The graph of a network of four images, for a window of so many voxels."""
    program = torch.onnx.export(network.eval(), (torch.zeros(1, 4, *size),), dynamo=True, verbose=False)
    return program.model_proto.SerializeToString()


def write(folder: Path, graph: bytes, toml: str) -> Path:
    """The folder that jobs.adopt takes."""
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(graph)
    (folder / "model.toml").write_text(toml)
    return folder
