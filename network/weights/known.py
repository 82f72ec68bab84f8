"""Names of pretrained weights, and the models that have them. Imports no PyTorch."""

from typing import NamedTuple


class KineticsWeights(NamedTuple):
    """Weights that torchvision publishes for a network, KINETICS400_V1 of `enum`.

    clip_len, fps  the clips of the training: frames, and how many a second. The weights do not say; torchvision's
                   documentation and training recipes do.
    top1           accuracy on Kinetics-400 in %, several clips a video, from torchvision's documentation
    """

    enum: str
    clip_len: int
    fps: float
    top1: float


# our model -> its weights
KINETICS400 = {
    "r3d_18": KineticsWeights("R3D_18_Weights", 16, 15.0, 63.2),
    "mc3_18": KineticsWeights("MC3_18_Weights", 16, 15.0, 63.96),
    "r2plus1d_18": KineticsWeights("R2Plus1D_18_Weights", 16, 15.0, 67.463),
    "s3d": KineticsWeights("S3D_Weights", 64, 15.0, 68.368),
    "mvit_v1_b": KineticsWeights("MViT_V1_B_Weights", 16, 7.5, 78.477),
    "mvit_v2_s": KineticsWeights("MViT_V2_S_Weights", 16, 7.5, 80.757),
    "swin3d_t": KineticsWeights("Swin3D_T_Weights", 32, 15.0, 77.715),
    "swin3d_s": KineticsWeights("Swin3D_S_Weights", 32, 15.0, 79.521),
    "swin3d_b": KineticsWeights("Swin3D_B_Weights", 32, 15.0, 79.427),
}
# our model -> torchvision's list of its trunk's weights
IMAGENET = {
    "cnn_lstm": "ResNet152_Weights",
    "cnn_lstm_50": "ResNet50_Weights",
    "cnn_lstm_18": "ResNet18_Weights",
    "cnn_lstm_mobile": "MobileNet_V2_Weights",
    "cnn_mean": "ResNet152_Weights",
    "cnn_mean_50": "ResNet50_Weights",
    "cnn_mean_18": "ResNet18_Weights",
    "cnn_mean_mobile": "MobileNet_V2_Weights",
}

KNOWN = {"kinetics400": list(KINETICS400), "imagenet": list(IMAGENET)}  # weights -> models


def known_weights(model_name: str) -> list[str]:
    """Names of weights that --weights takes for this model, beside a file."""
    return [name for name, models in KNOWN.items() if model_name in models]
