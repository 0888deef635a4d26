"""What goes into a model, in which order, and which rows it learns from."""

import dataclasses

import numpy
import pandas

LABEL = "late"
TIME = "scheduled_at"

# From the dataset of the spine, known when the flight is put into the timetable. The codes are names, see flight_delay.yaml.
CATEGORIES = ["origin_code", "destination_code", "carrier_code"]
SCHEDULE = ["distance_miles", "day_of_week", "minute_of_day"]
# The newest reading at the airport that was made by the scheduled departure. Missing where there was none.
WEATHER = [
    "weather__temperature_fahrenheit",
    "weather__humidity_percent",
    "weather__wind_speed_mph",
    "weather__precipitation_inches",
    "weather__pressure_millibars",
    "weather__visibility_miles",
]
NUMBERS = SCHEDULE + WEATHER
FEATURES = CATEGORIES + NUMBERS
DATASETS = {name: "weather_hourly" if name in WEATHER else "flight_features" for name in FEATURES}

# Midnights in New York. The rows of the last day before each are left out: whether they were late was not known yet.
VALIDATE_FROM = pandas.Timestamp("2013-09-01T04:00:00Z")
TEST_FROM = pandas.Timestamp("2013-10-01T04:00:00Z")
TEST_TO = pandas.Timestamp("2014-01-01T05:00:00Z")
GAP = pandas.Timedelta("1d")


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows that belong together, in the order of their time."""

    x: numpy.ndarray
    y: numpy.ndarray
    times: pandas.Series

    def __len__(self):
        return len(self.y)


@dataclasses.dataclass(frozen=True)
class Split:
    """Learn from `train`, choose by `validation`, and judge by `test`, which is later than all of them."""

    train: Part
    validation: Part
    test: Part


def matrix(rows):
    """The features as every model takes them: float32, a row per departure, NaN where a value is missing.

    Codes are below 2^24, so that float32 holds them as they are.
    """
    return numpy.column_stack([rows[name].to_numpy(dtype="float64", na_value=numpy.nan) for name in FEATURES]).astype("float32")


def held_out(rows, count):
    """The first departures of the test rows, whatever a trial leaves out of them: to compare answers on."""
    return matrix(rows[(rows[TIME] >= TEST_FROM) & (rows[TIME] < TEST_TO)].iloc[:count])


def split(rows, take=1):
    """Rows by time; of each part every `take`-th, for a trial."""

    def part(start, end):
        chosen = rows[(rows[TIME] >= start) & (rows[TIME] < end)].iloc[::take]
        if chosen[LABEL].nunique() < 2:
            raise ValueError(f"between {start} and {end} all flights are late or none: {len(chosen)} rows")
        return Part(matrix(chosen), chosen[LABEL].to_numpy(dtype="int64"), chosen[TIME])

    return Split(
        train=part(rows[TIME].min(), VALIDATE_FROM - GAP),
        validation=part(VALIDATE_FROM, TEST_FROM - GAP),
        test=part(TEST_FROM, TEST_TO),
    )
