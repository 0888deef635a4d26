"""A dense neural network by Keras, as ONNX and as a SavedModel.

Everything that is done to the features is a layer, so that both files take the same matrix as the forest does, and nothing needs to be
repeated where the model is used.
"""

import os

# Before TensorFlow is imported. Without oneDNN, sums are made in the same order on every machine that has the same vector instructions.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import pathlib
import tempfile

import keras
import numpy
import onnx
import tensorflow

from . import answers
from .features import CATEGORIES, FEATURES, NUMBERS

UNITS = (64, 32)
DROPOUT = 0.1
BATCH_ROWS = 1024
EPOCHS_MAX = 20
# Epochs without a better log loss on the validation rows.
PATIENCE = 3


@keras.saving.register_keras_serializable("flight_delay")
class Encode(keras.layers.Layer):
    """Columns of features as a network takes them: a one for the category's place among `categories`, no one for a category that was never
    seen; numbers with mean 0 and deviation 1, the median where one is missing. Comparisons and sums only, which every format has.
    """

    def __init__(self, categories, medians, means, deviations, **options):
        super().__init__(**options)
        self.settings = {"categories": categories, "medians": medians, "means": means, "deviations": deviations}

    def get_config(self):
        return {**super().get_config(), **self.settings}

    def call(self, features):
        places = [
            keras.ops.cast(keras.ops.equal(features[:, FEATURES.index(name), None], numpy.float32([values])), "float32")
            for name, values in zip(CATEGORIES, self.settings["categories"])
        ]
        first = FEATURES.index(NUMBERS[0])
        numbers = features[:, first:]
        numbers = keras.ops.where(keras.ops.isnan(numbers), numpy.float32([self.settings["medians"]]), numbers)
        scaled = (numbers - numpy.float32([self.settings["means"]])) / numpy.float32([self.settings["deviations"]])
        return keras.ops.concatenate([*places, scaled], axis=1)


def train(split, seed, epochs=EPOCHS_MAX):
    """The same network for the same rows and seed on the same kind of machine; another processor may round sums otherwise."""
    # Layers are numbered through, and their numbers are in the files.
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    tensorflow.config.experimental.enable_op_determinism()
    x = split.train.x
    numbers = x[:, FEATURES.index(NUMBERS[0]):].astype("float64")
    medians = numpy.nanmedian(numbers, axis=0)
    filled = numpy.where(numpy.isnan(numbers), medians, numbers)
    encode = Encode(
        [numpy.unique(x[:, FEATURES.index(name)]).tolist() for name in CATEGORIES],
        medians.tolist(), filled.mean(axis=0).tolist(), numpy.maximum(filled.std(axis=0), 1e-6).tolist(),
    )
    features = keras.Input((len(FEATURES),), name="features")
    hidden = encode(features)
    for units in UNITS:
        hidden = keras.layers.Dropout(DROPOUT)(keras.layers.Dense(units, activation="relu")(hidden))
    model = keras.Model(features, keras.layers.Dense(1, activation="sigmoid", name="late")(hidden), name="flight_delay")
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    stop = keras.callbacks.EarlyStopping(monitor="val_loss", patience=PATIENCE, restore_best_weights=True)
    model.fit(
        x, split.train.y, validation_data=(split.validation.x, split.validation.y),
        batch_size=BATCH_ROWS, epochs=epochs, callbacks=[stop], verbose=2,
    )
    return model


def predict(model, x):
    """The probability that each row is late, and whether it is more likely than not: Keras' own answers."""
    probabilities = model.predict(x, batch_size=10_000, verbose=0)[:, 0]
    return probabilities, (probabilities > 0.5).astype("int64")


def to_bytes(model):
    """The ONNX file: a matrix of features in, labels and probabilities out, as of the forest."""
    late = model.output
    label = keras.ops.cast(keras.ops.reshape(late, (-1,)) > 0.5, "int64")
    both = keras.Model(model.input, [label, keras.ops.concatenate([1 - late, late], axis=1)], name="flight_delay")
    # Only a model that was called once can be exported.
    both(numpy.zeros((1, len(FEATURES)), "float32"))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.onnx"
        both.export(path, format="onnx", opset_version=answers.OPSETS[""], verbose=False)
        exported = onnx.load(path)
    label, probabilities = (output.name for output in exported.graph.output)
    return answers.named(exported, label, probabilities).SerializeToString(deterministic=True)


def save(model, folder):
    """The SavedModel, for TensorFlow Serving and the like: it answers with the probability of being late alone."""
    model.export(folder, format="tf_saved_model", verbose=False)
