"""A synthetic world of captioned clips: the training data of the bundled model, and the judge of its samples."""
