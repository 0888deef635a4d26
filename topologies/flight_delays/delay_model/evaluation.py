"""How good answers are on rows that are later than all that was learnt from, and whether those of one model are better than another's."""

import dataclasses

import numpy
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from .features import FEATURES

BINS = 10
IMPORTANCE_ROWS_MAX = 20_000
IMPORTANCE_REPEATS = 5
RESAMPLES = 1_000


def metrics(y, probabilities):
    """What is written into the manifest: numbers by name."""
    probabilities = numpy.asarray(probabilities, dtype="float64")
    return {
        "auc": roc_auc_score(y, probabilities),
        "average_precision": average_precision_score(y, probabilities),
        "log_loss": log_loss(y, probabilities),
        "brier": brier_score_loss(y, probabilities),
        "calibration_error": sum(each.rows * abs(each.predicted - each.observed) for each in calibration(y, probabilities)) / len(y),
        "late_rate": float(numpy.mean(y)),
        "late_rate_predicted": float(probabilities.mean()),
        "rows": float(len(y)),
    }


@dataclasses.dataclass(frozen=True)
class Bin:
    """Rows with like probabilities: how many are late according to the model, and how many were."""

    rows: int
    predicted: float
    observed: float


def calibration(y, probabilities):
    """Ten bins with equally many rows each, from the least likely to be late to the most."""
    order = numpy.argsort(probabilities, kind="stable")
    parts = [part for part in numpy.array_split(order, BINS) if len(part) > 0]
    return [Bin(len(part), float(probabilities[part].mean()), float(y[part].mean())) for part in parts]


def importance(predict, x, y, seed):
    """By how much the AUC falls when the values of one feature are dealt out anew among the rows: mean and deviation by feature.

    Features that say the same, such as temperature and season, stand in for each other: then each seems to matter little.
    """
    random = numpy.random.default_rng(seed)
    chosen = numpy.sort(random.permutation(len(y))[:IMPORTANCE_ROWS_MAX])
    x, y = x[chosen], y[chosen]
    whole = roc_auc_score(y, predict(x))
    found = {}
    for index, name in enumerate(FEATURES):
        falls = []
        for _ in range(IMPORTANCE_REPEATS):
            mixed = x.copy()
            mixed[:, index] = random.permutation(mixed[:, index])
            falls.append(whole - roc_auc_score(y, predict(mixed)))
        found[name] = (float(numpy.mean(falls)), float(numpy.std(falls)))
    return dict(sorted(found.items(), key=lambda entry: -entry[1][0]))


# ---------------------------------------------------------------- two models, the same rows


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a challenger does better than the champion on the same rows. An interval holds 95 % of the resamples."""

    auc_gain: float
    auc_gain_low: float
    auc_gain_high: float
    log_loss_gain: float
    log_loss_gain_low: float
    log_loss_gain_high: float
    # Of DeLong's test, which takes rows for independent: too small where the flights of a day are late together.
    auc_p_value: float

    @property
    def is_better(self):
        """Surely better in order, and not surely worse in probability."""
        return self.auc_gain_low > 0 and self.log_loss_gain_high > 0


def compare(y, champion, challenger, times, seed, resamples=RESAMPLES):
    """The challenger against the champion: both scored each of these rows.

    Days are drawn with replacement, all flights of a day together, because they share weather and crowding; both models are judged on the same
    draw, so that what makes a day hard for both does not count. A difference of two numbers without this says nothing.
    """
    y = numpy.asarray(y)
    local = times.dt.tz_convert("America/New_York").dt.tz_localize(None).dt.floor("D")
    days, day = numpy.unique(local.to_numpy(), return_inverse=True)
    random = numpy.random.default_rng(seed)
    draws = random.multinomial(len(days), numpy.full(len(days), 1 / len(days)), size=resamples)
    scored = [Scored(y, numpy.asarray(answers, dtype="float64"), day, len(days)) for answers in (champion, challenger)]
    aucs = [one.aucs(draws) for one in scored]
    losses = [draws @ one.loss_by_day / (draws @ one.rows_by_day) for one in scored]
    auc_gains = aucs[1] - aucs[0]
    loss_gains = losses[0] - losses[1]
    return Comparison(
        float(scored[1].auc - scored[0].auc), *numpy.nanquantile(auc_gains, [0.025, 0.975]).tolist(),
        float(scored[0].loss - scored[1].loss), *numpy.quantile(loss_gains, [0.025, 0.975]).tolist(),
        delong(y, champion, challenger),
    )


class Scored:
    """Answers of one model, in an order that makes resampling cheap."""

    def __init__(self, y, answers, day, days):
        clipped = numpy.clip(answers, 1e-15, 1 - 1e-15)
        losses = -numpy.where(y == 1, numpy.log(clipped), numpy.log(1 - clipped))
        self.loss = losses.mean()
        self.loss_by_day = numpy.bincount(day, losses, days)
        self.rows_by_day = numpy.bincount(day, minlength=days)
        self.auc = roc_auc_score(y, answers)
        order = numpy.argsort(answers, kind="stable")
        self.late, self.day = y[order] == 1, day[order]
        # Rows with equal answers follow each other; each group ends before these.
        self.ends = numpy.append(numpy.flatnonzero(numpy.diff(answers[order])), len(answers) - 1)

    def aucs(self, draws):
        """The AUC if each day counts as often as it was drawn; not a number if nothing is late then, or everything."""
        found = numpy.empty(len(draws))
        for index, drawn in enumerate(draws):
            weights = drawn[self.day].astype("float64")
            late = numpy.diff(numpy.cumsum(weights * self.late)[self.ends], prepend=0.0)
            on_time = numpy.diff(numpy.cumsum(weights * ~self.late)[self.ends], prepend=0.0)
            below = numpy.cumsum(on_time) - on_time
            pairs = late.sum() * on_time.sum()
            found[index] = (late * (below + on_time / 2)).sum() / pairs if pairs > 0 else numpy.nan
        return found


def delong(y, one, other):
    """The p-value of the hypothesis that both have the same AUC: DeLong, DeLong and Clarke-Pearson (1988), by ranks as Sun and Xu (2014)."""
    from scipy.stats import norm, rankdata

    y = numpy.asarray(y) == 1
    late, on_time = int(y.sum()), int((~y).sum())
    aucs, of_late, of_on_time = [], [], []
    for answers in (numpy.asarray(one, dtype="float64"), numpy.asarray(other, dtype="float64")):
        ranks = rankdata(answers)
        aucs.append((ranks[y].sum() - late * (late + 1) / 2) / (late * on_time))
        of_late.append((ranks[y] - rankdata(answers[y])) / on_time)
        of_on_time.append(1 - (ranks[~y] - rankdata(answers[~y])) / late)
    covariance = numpy.cov(of_late) / late + numpy.cov(of_on_time) / on_time
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if variance <= 0:
        return 1.0
    return float(2 * norm.sf(abs(aucs[1] - aucs[0]) / numpy.sqrt(variance)))
