"""Trains the digit classifier and exports models/digits_cnn.onnx, BatchNorm unfolded.

    pip install -e '.[train]'
    python models/train_digits.py

Convolution, depthwise convolution, BatchNorm, ReLU, residual Add: what quantkit fuses. Seeded; about three minutes on
two cores. Another torch version or CPU may give weights that differ, and then models/manifest.json must be renewed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from digits_data import FOLDER, splits
from torch import nn

from quantkit.observe.preprocess import load_preprocess

SEED = 7
EPOCHS, BATCH, PEAK_RATE, WEIGHT_DECAY = 24, 32, 4e-3, 1e-3
LARGEST_SHIFT = 3
"""Pixels of the 32 x 32 image: augmentation moves it by up to this much either way."""
MODEL = Path(__file__).resolve().parent / "digits_cnn.onnx"
OPSET = 17


class ConvBn(nn.Module):
    """BatchNorm(conv(x)), then ReLU unless `relu` is False; "same" padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn(self.conv(x))
        return torch.relu(y) if self.relu else y


class Residual(nn.Module):
    """relu(x + second(first(x)))."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(self.first(x)))


class DigitsCnn(nn.Module):
    """float32 [N, 1, 32, 32] -> logits [N, 10]. 113 thousand weights, 39 million multiply-adds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBn(1, 32, 3)
        self.stage1 = Residual(ConvBn(32, 32, 3), ConvBn(32, 32, 3, relu=False))
        self.down1_depthwise, self.down1_pointwise = ConvBn(32, 32, 3, stride=2, groups=32), ConvBn(32, 64, 1)
        self.stage2 = Residual(ConvBn(64, 64, 3), ConvBn(64, 64, 3, relu=False))
        self.down2_depthwise, self.down2_pointwise = ConvBn(64, 64, 3, stride=2, groups=64), ConvBn(64, 96, 1)
        self.stage3 = Residual(ConvBn(96, 96, 3, groups=96), ConvBn(96, 96, 1, relu=False))
        self.classifier = nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage1(self.stem(x))
        x = self.stage2(self.down1_pointwise(self.down1_depthwise(x)))
        x = self.stage3(self.down2_pointwise(self.down2_depthwise(x)))
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def tensors(images: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    recipe = load_preprocess(FOLDER / "digits.toml")
    return torch.from_numpy(np.stack([recipe.apply(image) for image in images])), torch.from_numpy(labels)


def shifted(x: torch.Tensor) -> torch.Tensor:
    """Each batch is moved by a random number of pixels, its border repeated."""
    down, right = torch.randint(0, 2 * LARGEST_SHIFT + 1, (2,)).tolist()
    padded = nn.functional.pad(x, [LARGEST_SHIFT] * 4, mode="replicate")
    return padded[..., down : down + x.shape[-2], right : right + x.shape[-1]]


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    steps = EPOCHS * -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    model.train()
    for epoch in range(EPOCHS):
        for chosen in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            loss = loss_of(model(shifted(x[chosen])), y[chosen])
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.4f}", flush=True)


def export(model: nn.Module, x: torch.Tensor) -> None:
    torch.onnx.export(
        model,
        (x[:1],),
        MODEL,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        opset_version=OPSET,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
    )


def main() -> None:
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    data = {name: tensors(*split) for name, split in splits().items()}
    model = DigitsCnn()
    train(model, *data["train"])
    model.eval()
    export(model, data["train"][0])
    x, y = data["test"]
    with torch.no_grad():
        correct = (model(x).argmax(dim=1) == y).float().mean().item()
    print(f"{MODEL.name}: {MODEL.stat().st_size} bytes, test accuracy {100 * correct:.1f} %")


if __name__ == "__main__":
    main()
