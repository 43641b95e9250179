"""Video Swin as SalFoM's encoder: the paper's ablation with an encoder that is not a video foundation model.

    clip (B, 3, T, H, W) -> Video Swin: stage 3 (B, C/2, T/2, H/16, W/16) and stage 4 (B, C, T/2, H/32, W/32)
      -> stage 4, upsampled x2 in space, + a 1x1x1 convolution of stage 3
      -> time doubled by linear interpolation: features (B, C, T, H/16, W/16)

The paper reports that such an encoder is worse; which one it used, and how it was connected to the decoder, is not
public. This project chose Video Swin-B, whose last stage has the 1024 channels of UMT-L and whose Kinetics-400
weights are published, and one step of a feature pyramid, because the decoder expects a stride of 16, which is
stage 3's. The decoder is unchanged. Patches span two frames, so time is upsampled by interpolation.

Source: Liu et al., "Video Swin Transformer", CVPR 2022, in torchvision's implementation; Lin et al., "Feature
Pyramid Networks for Object Detection", CVPR 2017 (Section 3) for the sum of two stages.
"""

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.video.swin_transformer import SwinTransformer3d

STAGES = 4
"""Number of stages; each has twice the channels and heads of the previous one."""

WINDOW = (8, 7, 7)
"""Attention window in frames, rows and columns, as in all published weights; it shrinks to a smaller grid."""


class Encoder(nn.Module):
    """Video Swin with its last two stages merged to one grid of stride 16.

    Args:
        num_frames: T, frames of a clip.
        width: C, channels of the last stage: 1024 in Video Swin-B, 768 in -S and -T.
        depth: total number of blocks, two per stage and the rest in the third: 24 in -B and -S, 12 in -T.
        heads: attention heads of the last stage: 32 in -B, 24 in -S and -T.
        drop_path: stochastic depth rate of the last block; it increases linearly from 0 in the first.

    Raises:
        ValueError: if no Video Swin has this width, depth and heads.
    """

    def __init__(self, *, num_frames: int, width: int, depth: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        first = 2 ** (STAGES - 1)
        if width % first or heads % first or width % heads:
            raise ValueError(
                f"width {width}, heads {heads}: a Swin encoder needs multiples of {first}, and heads must divide "
                f"width, such as width 1024 and heads 32"
            )
        if depth < 2 * STAGES - 1:
            raise ValueError(f"depth {depth}: a Swin encoder needs at least {2 * STAGES - 1} blocks, such as 24")
        self.num_frames = num_frames
        self.swin = SwinTransformer3d(
            patch_size=[2, 4, 4],
            embed_dim=width // first,
            depths=[2, 2, depth - 6, 2],
            num_heads=[heads // first * 2**i for i in range(STAGES)],
            window_size=list(WINDOW),
            stochastic_depth_prob=drop_path,
            num_classes=1,
        )
        del self.swin.head, self.swin.avgpool
        self.lateral = nn.Conv3d(width // 2, width, 1)
        nn.init.xavier_uniform_(self.lateral.weight)
        nn.init.zeros_(self.lateral.bias)  # type: ignore[arg-type]
        stages = [f"swin.features.{2 * i}" for i in range(STAGES)]
        self.layers = ["swin.patch_embed"]
        for i, stage in enumerate(stages):
            self.layers += [f"{stage}.{block}" for block in range(len(self.get_submodule(stage)))]  # type: ignore[arg-type]
            self.layers += [f"swin.features.{2 * i + 1}"] if i < STAGES - 1 else []

    def forward(self, clip: Tensor) -> Tensor:
        """Encode a normalised clip (B, 3, T, H, W) to (B, C, T, h, w), h = H/16 and w = W/16."""
        x = self.swin.patch_embed(clip)  # (B, T/2, H/4, W/4, C/8)
        x = self.swin.features[:5](x)  # (B, T/2, h, w, C/2)
        fine = self.lateral(rearrange(x, "b t h w c -> b c t h w"))  # (B, C, T/2, h, w)
        x = self.swin.norm(self.swin.features[5:](x))  # (B, T/2, ceil(h/2), ceil(w/2), C)
        x = rearrange(x, "b t h w c -> b c t h w")
        coarse = F.interpolate(x, scale_factor=(1, 2, 2), mode="trilinear", align_corners=False)
        h, w = fine.shape[-2:]
        y = fine + coarse[..., :h, :w]  # crop the padding of an odd h or w
        return F.interpolate(y, size=(self.num_frames, h, w), mode="trilinear", align_corners=False)
