"""TargetNet, saliency, mask filter, ObjectNet and their fusion, as modules.

MultiCAM (K. Fu, W. Dai, Y. Zhang, Z. Wang, M. Yan, X. Sun, "MultiCAM: Multiple Class Activation
Mapping for Aircraft Recognition in Remote Sensing Images", Remote Sensing 11(5), 544, 2019). Only
its abstract and a summary of it were at hand. From them: a TargetNet classifies and gives a CAM of
every class; the CAMs of all classes make one saliency map; a mask filter hides the background of
the original image and keeps the object's place and scale; an ObjectNet is trained on the masked
images; the features of both are fused for the answer. What follows is our own reading, decision by
decision, with what could have been chosen instead:

1. **CAM of a class** (Zhou et al. 2016, eq. 2): CAM_c = sum_k (w_k^c − mean_c w_k^c) · A_k. What
   all classes share is taken off: softmax does not see it, and under cross entropy, whose
   gradients of the classes add up to 0, it stays what the initialisation drew. Alternative: the
   plain weights.
2. **Saliency**: S = up(m) / max(up(m)) with m = max_c CAM_c. A place counts as much as it speaks
   for the class that it speaks for most, whatever the answer is; a class without evidence adds
   nothing. Alternatives: the sum over the classes of maps each scaled to [0, 1], which makes as
   much of a class that was seen nowhere; the sum weighted by the probabilities, which is the CAM of
   the answer alone where the network is sure. Divided by the maximum, and not min-max: where
   evidence is everywhere, as in a scene, nothing has to be hidden. No evidence at all (S flat at
   0) hides nothing.
3. **Mask filter**: hidden below S = 0.1, kept as it is from 0.2 on, a ramp between; 0.2 is Zhou's
   share of the maximum for a box, 0.1 the poster's threshold. Alternatives: a step, in which
   rounding of the maps (another engine, half precision) turns pixels on and off; the soft product
   X ⊙ S, which darkens the object too.
4. **A hidden pixel** gets the dataset's mean, 0 after normalisation, which is also what the
   convolutions pad with. Alternative: black.
5. **ObjectNet** is the same backbone from the same starting weights, trained on the masked images
   while TargetNet stands still. Alternative: from TargetNet's weights, which makes the two alike.
6. **Fusion**: the pooled features of both, one after the other, into one fully connected layer,
   which begins as the mean of the two networks' own and is trained with both standing still.
   Alternative: all of it trained end to end.

Everything here works on normalised inputs, (N, 3, H, W), as the networks do.
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
"""Up to this saliency a pixel is hidden."""
KEPT = 0.2
"""From this saliency on a pixel is kept as it is."""


class CamNet(nn.Module):
    """A network that ends global average pooling → one fully connected layer, and shows its maps.

    Attributes:
        network: (N, 3, H, W) to (N, C) logits.
    """

    def __init__(self, network: nn.Module, target: Target, head: str) -> None:
        """Wrap a network.

        Args:
            network: stays as it is.
            target: the layer whose maps are pooled.
            head: the name of the fully connected layer, an `nn.Linear`.
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
        """The network's own answer, logits."""
        return class_outputs(self.network(inputs))

    def maps(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k u v"]:
        """A_k: the maps before pooling, of one forward pass, without gradients."""
        with layers_of(self.network).recording(self._target) as maps:
            self.network(inputs)
        return maps[0]

    def class_maps(self, maps: Float[Tensor, "n k u v"]) -> Float[Tensor, "n c u v"]:
        """CAM_c of every class (decision 1)."""
        weights = self.head.weight
        return torch.einsum("ck,nkuv->ncuv", weights - weights.mean(dim=0), maps)


def saliency(
    class_maps: Float[Tensor, "n c u v"], inputs: Float[Tensor, "n d h w"]
) -> Float[Tensor, "n h w"]:
    """S: one map in [0, 1] of the CAMs of all classes (decision 2); all 1 where they are flat.

    Args:
        class_maps: CAM_c, whose mean over the classes is 0.
        inputs: what they are of; only its size counts.

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
    """How much of each pixel is kept, 0 to 1 (decision 3).

    >>> from relook.multicam import mask_filter
    >>> mask_filter(torch.tensor([[[0.05, 0.15, 0.8]]]))
    tensor([[[0.0000, 0.5000, 1.0000]]])
    """
    return ((saliency - HIDDEN) / (KEPT - HIDDEN)).clamp(0, 1)


class ObjectNet(nn.Module):
    """TargetNet hides the background, and a second network answers of what is left.

    Attributes:
        target: TargetNet.
        network: the second one.
    """

    def __init__(self, target: CamNet, network: CamNet) -> None:
        super().__init__()
        self.target = target
        self.network = network

    def forward(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Logits."""
        answer: Tensor = self.network(self.masked(inputs, self.target.maps(inputs)))
        return answer

    def masked(
        self, inputs: Float[Tensor, "n 3 h w"], maps: Float[Tensor, "n k u v"]
    ) -> Float[Tensor, "n 3 h w"]:
        """The masked images (decision 4), from TargetNet's maps of the same inputs."""
        return inputs * mask_filter(saliency(self.target.class_maps(maps), inputs)).unsqueeze(1)


class MultiCAM(nn.Module):
    """Both networks' features, fused.

    It ends GAP → FC as its parts do: the maps of both, TargetNet's first, come together in the
    layer `joined`, which is its target layer for CAM and Score-CAM.

    Attributes:
        object: ObjectNet, which holds TargetNet.
        joined: (N, 2K, h, w), passed on as it is.
        fusion: the fully connected layer, 2K to C.

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
        with torch.no_grad():  # decision 6: it begins as the mean of the two answers
            self.fusion.weight.copy_(weight)
            self.fusion.bias.zero_()
            for head in heads:
                if head.bias is not None:
                    self.fusion.bias.add_(head.bias / 2)

    def features(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        """The pooled maps of both networks."""
        maps = self.object.target.maps(inputs)
        seen = self.object.network.maps(self.object.masked(inputs, maps))
        joined: Tensor = self.joined(torch.cat([maps, seen], dim=1))
        return joined.mean(dim=(2, 3))

    def forward(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Logits."""
        answer: Tensor = self.fusion(self.features(inputs))
        return answer
