"""Speed, measured one way everywhere: two ways in turn in one process, medians, the share of the machine's own peak.

    python -m suite.bench [training] [--repeats N]   one iteration of every method, the plain way and ours
    python -m suite.bench ais [--repeats N]          annealed importance sampling against a loop over images
    python -m suite.bench scores [--repeats N]       the SVM protocol and the classifier
"""

from suite.bench.training import epoch_times as epoch_times
