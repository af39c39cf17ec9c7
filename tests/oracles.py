"""Score-CAM again, in the plainest form, one class and one channel at a time, in float64.

Each is written from the definition it is named after, not from relook's code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def normalise(x, mean, std):
    return (x - torch.tensor(mean, dtype=x.dtype).view(3, 1, 1)) / torch.tensor(
        std, dtype=x.dtype
    ).view(3, 1, 1)


def authors(network, pixels, activations, c, mean, std, fill):
    """The authors' code, with the pixels masked before they are normalised."""
    size = pixels.shape[1:]
    total = torch.zeros(size, dtype=pixels.dtype)
    for a in activations:
        up = F.interpolate(a[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        if up.max() == up.min():
            continue
        h = (up - up.min()) / (up.max() - up.min())
        masked = pixels * h + fill * (1 - h)
        score = network(normalise(masked, mean, std)[None]).softmax(1)[0, c]
        total = total + score * up
    total = total.clamp_min(0)
    if total.max() == total.min():
        return torch.zeros_like(total)
    return (total - total.min()) / (total.max() - total.min())


def paper(network, pixels, activations, c, mean, std, fill):
    """The paper's Algorithm 1, baseline included."""
    size = pixels.shape[1:]
    baseline = network(normalise(fill.expand_as(pixels), mean, std)[None])[0, c]
    ups, scores = [], []
    for a in activations:
        up = F.interpolate(a[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        if up.max() == up.min():
            continue
        h = (up - up.min()) / (up.max() - up.min())
        masked = pixels * h + fill * (1 - h)
        scores.append(network(normalise(masked, mean, std)[None])[0, c] - baseline)
        ups.append(up)
    alpha = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
    total = sum(w * up for w, up in zip(alpha, ups, strict=True)).clamp_min(0)
    return (total - total.min()) / (total.max() - total.min())


def torchcam(network, pixels, activations, c, mean, std):
    """torch-cam: masks normalised at the maps' size, constant channels run as zero masks."""
    inputs = normalise(pixels, mean, std)
    base = network(inputs[None])[0, c]
    scores = []
    for a in activations:
        h = (a - a.min()) / (a - a.min()).max().add(1e-8)
        h = F.interpolate(h[None, None], pixels.shape[1:], mode="bilinear", align_corners=False)
        scores.append(network(inputs[None] * h)[0, c] - base)
    alpha = torch.stack(scores).softmax(0)
    total = torch.einsum("k,kuv->uv", alpha, activations).clamp_min(0)
    total = total - total.min()
    total = total / (total.max() + 1e-8)
    return F.interpolate(total[None, None], pixels.shape[1:], mode="bilinear", align_corners=False)[
        0, 0
    ]


def gradcam(network, pixels, activations, c, mean, std):
    """pytorch-grad-cam: corners aligned, the sum at the maps' size, then OpenCV's resize, which
    for enlarging is bilinear between pixel centres."""
    inputs = normalise(pixels, mean, std)
    scores = []
    for a in activations:
        up = F.interpolate(a[None, None], pixels.shape[1:], mode="bilinear", align_corners=True)
        h = (up - up.min()) / (up.max() - up.min() + 1e-8)
        scores.append(network(inputs[None] * h)[0, c])
    alpha = torch.stack(scores).softmax(0)
    total = torch.einsum("k,kuv->uv", alpha, activations).clamp_min(0)
    total = total - total.min()
    total = total / (total.max() + 1e-7)
    total = F.interpolate(
        total[None, None], pixels.shape[1:], mode="bilinear", align_corners=False
    )[0, 0]
    total = total - total.min()
    return total / (total.max() + 1e-7)
