"""Makes settings of models by their names, and fails if that has imported PyTorch, torchvision or timm."""

import sys

from tasks.records import Model

if __name__ == "__main__":
    for name in ("timm:vit_base_patch16_224.augreg_in1k", "torchvision:resnet18", "vit_b_16"):
        Model(name=name)
    assert not {"torch", "torchvision", "timm"} & set(sys.modules)
