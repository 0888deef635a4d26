"""The model `flight_delay`: how likely is a departure to arrive more than 15 minutes late, from what is known before it leaves?

    data.py          the rows, pinned by versions and digest, read in three ways
    features.py      what goes into a model, and which rows it learns from
    forest.py        a random forest, and its ONNX file
    network.py       a dense neural network, its ONNX file and its SavedModel
    answers.py       what an ONNX file answers, and that it is what the library answers
    evaluation.py    how good the answers are, and whether one model is better than another
    statistics.py    what features looked like in training
    package.py       a folder that can be registered: model, manifest, statistics, card, plots
    steps.py         what the steps of the pipeline do
    stream.py        departures that a topology scores, and how good that is
"""
