"""The lowest layer: layouts, errors, strict configs, checkpoint folders, atomic files, devices and progress bars.

It imports nothing else of reelm. The letters in tensor names are the same everywhere:

    A next positions that a pass may see       N heads of queries
    B clips, images or rows of a batch         O outputs of a linear layer
    C slots of a cache                         P slots of the text prefix
    D channels of a model or a codebook        Q slots of a ring of positions
    E channels of a head                       R rows of logits: B, or 2 B under guidance
    F half the channels of a head              S positions of a sequence or of a latent frame
    G query heads of a key/value head          T frames
    H rows of pixels                           U distinct prefixes
    I inputs of a linear layer                 V token ids
    J heads of a joint projection: N + 2 K     W columns of pixels
    K heads of keys and values                 X any other axis
    L positions of a pass                      Y any other axis next to X
    M rows of a matrix, or items in a list     Z codes of a codebook
    t latent frames                            h rows of tokens
    w columns of tokens

The suffix of a name such as `tokens_BS` or `q_BSNE` is the tensor's shape, in which a digit is a size; for a name
without a suffix the docstring gives the shape.
"""
