"""Builds C3D in Keras from the published table of its layers, with random weights, and writes what it answers.

    python tests/network/weights/keras_oracle.py keras|tf_keras FOLDER CLASSES

FOLDER gets weights.h5, clips.npy (2, 16, 112, 112, 3) and logits.npy. Run by test_keras.py in a process of its own,
with the Python that has Keras. tf_keras is Keras 2, of whose time the public files are; keras is Keras 3.
"""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np

keras = import_module(sys.argv[1])

CONVS = [("conv1", 64), ("conv2", 128), ("conv3a", 256), ("conv3b", 256)]
CONVS += [("conv4a", 512), ("conv4b", 512), ("conv5a", 512), ("conv5b", 512)]
POOLED = {"conv1": "pool1", "conv2": "pool2", "conv3b": "pool3", "conv4b": "pool4", "conv5b": "pool5"}


def build(num_classes: int):
    layers = keras.layers
    model = keras.Sequential([layers.Input((16, 112, 112, 3))])
    for name, width in CONVS:
        model.add(layers.Conv3D(width, 3, padding="same", activation="relu", kernel_initializer="he_normal", name=name))
        if name == "conv5b":
            model.add(layers.ZeroPadding3D(((0, 0), (0, 1), (0, 1)), name="zeropad5"))  # below and right, as Caffe
        if name in POOLED:
            model.add(layers.MaxPooling3D((1, 2, 2) if name == "conv1" else 2, name=POOLED[name]))
    model.add(layers.Flatten(name="flatten"))
    model.add(layers.Dense(4096, activation="relu", kernel_initializer="he_normal", name="fc6"))
    model.add(layers.Dense(4096, activation="relu", kernel_initializer="he_normal", name="fc7"))
    model.add(layers.Dense(num_classes, name="fc8"))
    return model


def main(folder: Path, num_classes: int) -> None:
    keras.utils.set_random_seed(5)
    model = build(num_classes)
    rng = np.random.default_rng(6)
    for layer in model.layers:
        if layer.get_weights():
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, rng.uniform(-0.1, 0.1, bias.shape).astype(np.float32)])

    clips = rng.uniform(-1, 1, (2, 16, 112, 112, 3)).astype(np.float32)
    np.save(folder / "clips.npy", clips)
    np.save(folder / "logits.npy", model.predict(clips, batch_size=1, verbose=0))
    if keras.__version__.startswith("2."):
        model.save_weights(folder / "weights.h5", save_format="h5")
    else:
        model.save_weights(folder / "keras3.weights.h5")
        model.save(folder / "weights.h5")  # a whole model: Keras 3 writes no bare weights in the old format


if __name__ == "__main__":
    main(Path(sys.argv[2]), int(sys.argv[3]))
