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


def kriged_scores(maps, masks, count, answer, outputs=False):
    """Scores of all masks from `count` answers, by the formulas of a Gaussian process.

    Every candidate's worth is worked out anew: the squared error that is expected of the weighted
    sum of the maps once it is known too.
    """
    length, constant, noise = 0.3, 10.0, 0.03
    number = len(maps)
    covariance = torch.zeros(number, number, dtype=maps.dtype)
    mass = masks.mean(dim=(1, 2)).clamp_min(1e-3)
    for i in range(number):
        for j in range(number):
            r = (masks[i] - masks[j]).square().mean().sqrt() * 3**0.5 / length
            covariance[i, j] = constant + (1 + r) * torch.exp(-r)
    size = torch.ones_like(mass) if outputs else mass.sqrt()
    of_alpha = covariance * size[:, None] * size[None, :]
    gram = maps.flatten(1) @ maps.flatten(1).T
    asked = []
    for _ in range(count):
        errors = {}
        for candidate in set(range(number)) - set(asked):
            known = [*asked, candidate]
            seen = of_alpha[known][:, known] + torch.diag(noise * size[known] ** 2)
            left = of_alpha - of_alpha[:, known] @ torch.linalg.inv(seen) @ of_alpha[known]
            errors[candidate] = float((left * gram).sum())
        asked.append(min(errors, key=errors.get))
    alpha = torch.stack([answer(i) for i in asked])
    z = alpha if outputs else (alpha / mass[asked, None]).sqrt()
    level = z.mean(dim=0)
    seen = covariance[asked][:, asked] + noise * torch.eye(count, dtype=maps.dtype)
    expected = level + covariance[:, asked] @ torch.linalg.inv(seen) @ (z - level)
    if not outputs:
        expected = (expected.clamp_min(0) ** 2 * mass[:, None]).clamp_max(1)
    for place, i in enumerate(asked):
        expected[i] = alpha[place]
    return expected.T, asked
