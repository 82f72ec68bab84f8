"""Names of pretrained weights, and the models that have them. Imports no PyTorch."""

# our model -> torchvision's list of its weights, and the clips on which they were trained: frames, and how many a
# second. The weights themselves do not say; torchvision's documentation and training recipes do.
KINETICS400 = {
    "r3d_18": ("R3D_18_Weights", 16, 15.0),
    "mc3_18": ("MC3_18_Weights", 16, 15.0),
    "r2plus1d_18": ("R2Plus1D_18_Weights", 16, 15.0),
    "s3d": ("S3D_Weights", 64, 15.0),
    "mvit_v1_b": ("MViT_V1_B_Weights", 16, 7.5),
    "mvit_v2_s": ("MViT_V2_S_Weights", 16, 7.5),
    "swin3d_t": ("Swin3D_T_Weights", 32, 15.0),
    "swin3d_s": ("Swin3D_S_Weights", 32, 15.0),
    "swin3d_b": ("Swin3D_B_Weights", 32, 15.0),
}
# our model -> torchvision's list of its trunk's weights
IMAGENET = {
    "cnn_lstm": "ResNet152_Weights",
    "cnn_lstm_50": "ResNet50_Weights",
    "cnn_lstm_18": "ResNet18_Weights",
    "cnn_mean": "ResNet152_Weights",
    "cnn_mean_50": "ResNet50_Weights",
    "cnn_mean_18": "ResNet18_Weights",
}

KNOWN = {"kinetics400": list(KINETICS400), "imagenet": list(IMAGENET)}  # weights -> models


def known_weights(model_name: str) -> list[str]:
    """Names of weights that --weights takes for this model, beside a file."""
    return [name for name, models in KNOWN.items() if model_name in models]
