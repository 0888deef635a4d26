"""A random forest by scikit-learn, and the same forest as ONNX."""

from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import TargetEncoder

from . import answers
from .features import CATEGORIES, FEATURES

TREES = 100
# Leaves are wide enough for probabilities, and the file stays at a few megabytes.
LEAF_ROWS_MIN = 50
LEAVES_MAX = 1024


def train(split, seed, trees=TREES):
    """The same forest for the same rows and seed, on any number of cores."""
    categories = [FEATURES.index(name) for name in CATEGORIES]
    numbers = [index for index in range(len(FEATURES)) if index not in categories]
    prepare = ColumnTransformer([
        # How often flights of this carrier, from and to this airport are late; of one that was never seen, how often all are.
        ("categories", TargetEncoder(target_type="binary", cv=StratifiedKFold(5, shuffle=True, random_state=seed)), categories),
        ("numbers", SimpleImputer(strategy="median"), numbers),
    ])
    forest = RandomForestClassifier(
        trees, min_samples_leaf=LEAF_ROWS_MIN, max_leaf_nodes=LEAVES_MAX, max_features=4, max_samples=0.5, n_jobs=-1, random_state=seed
    )
    return Pipeline([("prepare", prepare), ("forest", forest)]).fit(split.train.x, split.train.y)


def predict(model, x):
    """The probability that each row is late, and whether it is more likely than not: scikit-learn's own answers."""
    return model.predict_proba(x)[:, 1], model.predict(x)


def to_bytes(model):
    """The ONNX file: a matrix of features in, labels and probabilities out.

    ONNX compares float32, scikit-learn a float32 with a float64 threshold. skl2onnx rounds each threshold down to the next float32, which
    decides every comparison as before; what differs is the sum over the trees, by some 1e-7.
    """
    inputs = [("features", FloatTensorType([None, len(FEATURES)]))]
    # With a name of its own the graph would have a random one.
    onnx = to_onnx(model, initial_types=inputs, name="flight_delay", options={"zipmap": False}, target_opset=answers.OPSETS)
    return answers.named(onnx).SerializeToString(deterministic=True)
