"""Sample tokens with a language model: the settings, the noise, the decoders, and the engine that runs clips."""
