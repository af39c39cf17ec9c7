"""TargetNet, saliency, mask filter, ObjectNet and their fusion, as modules.

MultiCAM (K. Fu, W. Dai, Y. Zhang, Z. Wang, M. Yan, X. Sun, "MultiCAM: Multiple Class Activation
Mapping for Aircraft Recognition in Remote Sensing Images", Remote Sensing 11(5), 544, 2019). We had
only its abstract and a summary. They say: TargetNet classifies and computes a CAM of every class;
the CAMs of all classes are combined into one saliency map; a mask filter hides the background of
the original image and keeps the position and scale of the object; ObjectNet is trained on the
masked images; the features of both networks are fused for the answer. The details below are our
own decisions, with the alternatives:

1. **CAM of a class** (Zhou et al. 2016, eq. 2): CAM_c = sum_k (w_k^c − mean_c w_k^c) · A_k. The
   mean over the classes is subtracted, since it does not change the softmax, and training with
   cross entropy leaves it at its random initial value. Alternative: the plain weights.
2. **Saliency**: S = up(m) / max(up(m)) with m = max_c CAM_c. Each position counts by its evidence
   for the class that it supports most, whatever the answer; classes without evidence add nothing.
   Alternatives: the sum over the classes of maps scaled to [0, 1] each, which gives full weight to
   classes seen nowhere; the sum weighted by the probabilities, which is only the answer's CAM if
   the network is confident. The map is divided by its maximum, not min-max scaled: if evidence is
   everywhere, as in a scene, nothing has to be hidden. Without any evidence nothing is hidden.
3. **Mask filter**: hidden below S = 0.1, unchanged from 0.2 on, with a linear ramp in between; 0.2
   is Zhou's fraction of the maximum for a bounding box, 0.1 the poster's threshold. Alternatives: a
   step, with which rounding of the maps (another engine, half precision) switches pixels on and
   off; the soft product X ⊙ S, which darkens the object too.
4. **Hidden pixels** get the dataset's mean, 0 after normalisation, with which convolutions also
   pad. Alternative: black.
5. **ObjectNet** is the same backbone with the same initial weights, trained on the masked images
   while TargetNet is frozen. Alternative: to start from TargetNet's weights, which makes the two
   networks similar.
6. **Fusion**: the pooled features of both networks are concatenated, as inputs of one fully
   connected layer. It is initialised as the mean of the two networks' own layers, and trained while
   both are frozen. Alternative: to train everything end to end.

Everything in this module works on normalised inputs (N, 3, H, W), like the networks.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils import skip_init

from relook.answers import class_outputs
from relook.layers import layers_of
from relook.target import Target

HIDDEN = 0.1
"""Largest saliency at which a pixel is completely hidden."""
KEPT = 0.2
"""Smallest saliency at which a pixel is unchanged."""


class CamNet(nn.Module):
    """A network that ends with global average pooling and one fully connected layer.

    Attributes:
        network: the network, from (N, 3, H, W) to logits (N, C).
    """

    def __init__(self, network: nn.Module, target: Target, head: str) -> None:
        """Wrap a network.

        Args:
            network: the network; it is not changed.
            target: layer whose maps are pooled.
            head: name of the fully connected layer, an `nn.Linear`.
        """
        super().__init__()
        self.network = network
        self._target = target
        self._head = head

    @property
    def head(self) -> nn.Linear:
        """The fully connected layer."""
        head = self.network.get_submodule(self._head)
        assert isinstance(head, nn.Linear)
        return head

    def forward(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Compute the network's logits."""
        return class_outputs(self.network(inputs))

    def maps(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k u v"]:
        """Compute the maps A_k before pooling, in one forward pass, without gradients."""
        with layers_of(self.network).recording(self._target) as maps:
            self.network(inputs)
        return maps[0]

    def class_maps(self, maps: Float[Tensor, "n k u v"]) -> Float[Tensor, "n c u v"]:
        """Compute CAM_c of every class (decision 1)."""
        weights = self.head.weight
        return torch.einsum("ck,nkuv->ncuv", weights - weights.mean(dim=0), maps)


def saliency(
    class_maps: Float[Tensor, "n c u v"], inputs: Float[Tensor, "n d h w"]
) -> Float[Tensor, "n h w"]:
    """Combine the CAMs of all classes into the saliency S (decision 2).

    Args:
        class_maps: CAM_c of every class, with mean 0 over the classes.
        inputs: inputs that the CAMs belong to; only their size is used.

    Returns:
        One map in [0, 1] per image; all 1 if there is no evidence for any class.

    >>> from relook.multicam import saliency
    >>> maps = torch.tensor([[[[2.0, 0.0]], [[-2.0, 1.0]]]])  # of two classes, 1×2
    >>> saliency(maps, torch.zeros(1, 3, 1, 2))
    tensor([[[1.0000, 0.5000]]])
    """
    strongest = class_maps.amax(dim=1, keepdim=True).clamp_min(0)
    large = interpolate(strongest, inputs.shape[2:], mode="bilinear", align_corners=False).squeeze(
        1
    )
    most = large.amax(dim=(1, 2), keepdim=True)
    return torch.where(most > 0, large / most.clamp_min(torch.finfo(most.dtype).tiny), 1.0)


def mask_filter(saliency: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Fraction of each pixel that is kept, in [0, 1] (decision 3).

    >>> from relook.multicam import mask_filter
    >>> mask_filter(torch.tensor([[[0.05, 0.15, 0.8]]]))
    tensor([[[0.0000, 0.5000, 1.0000]]])
    """
    return ((saliency - HIDDEN) / (KEPT - HIDDEN)).clamp(0, 1)


class ObjectNet(nn.Module):
    """A second network that classifies images whose background TargetNet has hidden.

    Attributes:
        target: TargetNet.
        network: the second network.
    """

    def __init__(self, target: CamNet, network: CamNet) -> None:
        super().__init__()
        self.target = target
        self.network = network

    def forward(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Compute the logits."""
        answer: Tensor = self.network(self.masked(inputs, self.target.maps(inputs)))
        return answer

    def masked(
        self, inputs: Float[Tensor, "n 3 h w"], maps: Float[Tensor, "n k u v"]
    ) -> Float[Tensor, "n 3 h w"]:
        """Mask the images (decision 4) by TargetNet's maps of the same inputs."""
        return inputs * mask_filter(saliency(self.target.class_maps(maps), inputs)).unsqueeze(1)


class MultiCAM(nn.Module):
    """The fusion of TargetNet's and ObjectNet's features.

    Like both networks it ends with global average pooling and one fully connected layer. The maps
    of both, TargetNet's first, are concatenated in the layer `joined`, which is its target layer
    for CAM and Score-CAM.

    Attributes:
        object: ObjectNet, which contains TargetNet.
        joined: identity on the concatenated maps (N, 2K, h, w).
        fusion: the fully connected layer from 2K features to C classes.

    >>> multicam = relook.load("trained")
    >>> type(multicam.network).__name__, multicam.target_layer
    ('MultiCAM', 'joined')
    """

    def __init__(self, object_net: ObjectNet) -> None:
        super().__init__()
        self.object = object_net
        self.joined = nn.Identity()
        heads = (object_net.target.head, object_net.network.head)
        weight = torch.cat([head.weight.detach() / 2 for head in heads], dim=1)
        self.fusion = skip_init(nn.Linear, weight.shape[1], len(weight)).to(weight)
        with torch.no_grad():  # decision 6: initialised as the mean of the two answers
            self.fusion.weight.copy_(weight)
            self.fusion.bias.zero_()
            for head in heads:
                if head.bias is not None:
                    self.fusion.bias.add_(head.bias / 2)

    def features(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        """Compute the pooled maps of both networks."""
        maps = self.object.target.maps(inputs)
        seen = self.object.network.maps(self.object.masked(inputs, maps))
        joined: Tensor = self.joined(torch.cat([maps, seen], dim=1))
        return joined.mean(dim=(2, 3))

    def forward(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Compute the logits."""
        answer: Tensor = self.fusion(self.features(inputs))
        return answer
