"""LeNet-5 (LeCun et al. 1998, Gradient-based learning applied to document recognition), with ReLU and max-pooling."""

from __future__ import annotations

from torch import Tensor, nn


class LeNet5(nn.Module):
    """Two 5×5 convolutions, each with 2×2 pooling, and three linear layers."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        # Without padding, the 5×5 kernels would leave nothing of images smaller than this.
        padding = 0 if image_size >= 32 else 2
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=padding)
        self.conv2 = nn.Conv2d(6, 16, 5, padding=padding)
        self.pool = nn.MaxPool2d(2)
        side = ((image_size - 4 + 2 * padding) // 2 - 4 + 2 * padding) // 2
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        x = self.relu(self.fc1(x.flatten(1)))
        return self.fc3(self.relu(self.fc2(x)))


def lenet5(num_classes: int, in_channels: int = 3, image_size: int = 32) -> LeNet5:
    """Build LeNet-5; 61,706 parameters at 10 classes on 32×32 greyscale images."""
    return LeNet5(num_classes, in_channels, image_size)
