"""Every error a user can cause. Catch `DistilPoseError` to catch them all."""


class DistilPoseError(Exception):
    """Base of all errors raised on bad input; the text says what was expected, what came and what to do."""


class InputError(DistilPoseError):
    """An image, a box, an array or a file handed in is unusable."""


class ConfigError(DistilPoseError):
    """An option or a configuration file asks for something that does not exist or does not fit together."""


class CheckpointError(DistilPoseError):
    """A model file is missing, broken, foreign, or does not match its model."""


class DatasetError(DistilPoseError):
    """An annotation file or its images are unusable; the text names file, annotation and remedy."""


class TrainingDivergedError(DistilPoseError):
    """A loss became NaN or infinite; the text names the term and the batch."""
